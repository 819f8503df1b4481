//! Label values. They come from fixed sets, so that nothing a pod or a runtime says can
//! make a new time series.

use std::fmt::Write;

use flock_core::cni;
use flock_core::handler::Repaired;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// A fixed set of label values, each with its text.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$value),*];

            /// As it stands in the label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
                encoder.write_str(self.as_str())
            }
        }
    };
}

label_values! {
    /// What a request asks for, and `none` for work that no request waits for.
    Verb {
        /// ADD.
        Add => "ADD",
        /// CHECK.
        Check => "CHECK",
        /// DEL.
        Del => "DEL",
        /// GC.
        Gc => "GC",
        /// STATUS.
        Status => "STATUS",
        /// VERSION, which the plugin answers itself.
        Version => "VERSION",
        /// The start of the agent, and the removal of links in batches.
        None => "none",
    }
}

impl From<Repaired> for Repair {
    fn from(repaired: Repaired) -> Self {
        match repaired {
            Repaired::Attachment => Self::Disturbed,
            Repaired::Node => Self::Node,
        }
    }
}

impl From<cni::Verb> for Verb {
    fn from(verb: cni::Verb) -> Self {
        match verb {
            cni::Verb::Add => Self::Add,
            cni::Verb::Check => Self::Check,
            cni::Verb::Del => Self::Del,
            cni::Verb::Gc => Self::Gc,
            cni::Verb::Status => Self::Status,
            cni::Verb::Version => Self::Version,
        }
    }
}

label_values! {
    /// The CNI error code of an answer; 0 is success.
    Code {
        /// Success.
        Success => "0",
        /// The CNI version is not supported.
        IncompatibleVersion => "1",
        /// A field of the configuration is not supported.
        UnsupportedField => "2",
        /// The container is unknown.
        UnknownContainer => "3",
        /// An environment variable is missing or invalid.
        InvalidEnvironment => "4",
        /// Reading or writing failed.
        IoFailure => "5",
        /// What was read could not be decoded.
        DecodingFailure => "6",
        /// The configuration is wrong.
        InvalidConfig => "7",
        /// It may work later.
        TryAgainLater => "11",
        /// STATUS: not available.
        NotAvailable => "50",
        /// STATUS: existing pods may be limited as well.
        Limited => "51",
        /// A defect of Flock.
        Internal => "100",
        /// No address could be given.
        Address => "101",
        /// The kernel's side failed.
        Dataplane => "102",
        /// The record could not be written or read.
        Record => "103",
        /// The pod is unknown or its annotations are wrong.
        Pod => "104",
        /// The announcement failed.
        Announcement => "105",
        /// CHECK found a difference.
        CheckFailed => "106",
        /// The caller may not ask.
        Denied => "107",
        /// A code that is none of these.
        Other => "other",
    }
}

impl From<cni::Code> for Code {
    fn from(code: cni::Code) -> Self {
        match code {
            cni::Code::INCOMPATIBLE_VERSION => Self::IncompatibleVersion,
            cni::Code::UNSUPPORTED_FIELD => Self::UnsupportedField,
            cni::Code::UNKNOWN_CONTAINER => Self::UnknownContainer,
            cni::Code::INVALID_ENVIRONMENT => Self::InvalidEnvironment,
            cni::Code::IO_FAILURE => Self::IoFailure,
            cni::Code::DECODING_FAILURE => Self::DecodingFailure,
            cni::Code::INVALID_CONFIG => Self::InvalidConfig,
            cni::Code::TRY_AGAIN_LATER => Self::TryAgainLater,
            cni::Code::NOT_AVAILABLE => Self::NotAvailable,
            cni::Code::LIMITED => Self::Limited,
            cni::Code::INTERNAL => Self::Internal,
            cni::Code::ADDRESS => Self::Address,
            cni::Code::DATAPLANE => Self::Dataplane,
            cni::Code::RECORD => Self::Record,
            cni::Code::POD => Self::Pod,
            cni::Code::ANNOUNCEMENT => Self::Announcement,
            cni::Code::CHECK_FAILED => Self::CheckFailed,
            cni::Code::DENIED => Self::Denied,
            _ => Self::Other,
        }
    }
}

label_values! {
    /// What a call of a backend does for an attachment.
    Step {
        /// Looks up the pod's annotations (`PodSource`).
        Annotations => "annotations",
        /// Gives and takes back addresses (`Ipam`).
        Allocation => "allocation",
        /// Reads and writes the durable record (`Store`).
        Record => "record",
        /// Makes, checks and removes links and routes (`Dataplane`).
        Kernel => "kernel",
        /// Hands over what is to be announced (`RouteAnnouncer`).
        Announcement => "announcement",
    }
}

label_values! {
    /// An address family.
    Family {
        /// IPv6.
        Ipv6 => "ipv6",
        /// IPv4.
        Ipv4 => "ipv4",
    }
}

label_values! {
    /// What an address of the node's prefix is at the moment.
    AddressState {
        /// A pod has it.
        InUse => "in_use",
        /// It was released and rests.
        Resting => "resting",
        /// It can be given.
        Free => "free",
    }
}

label_values! {
    /// How far an attachment has come.
    AttachmentState {
        /// Its ADD is at work.
        Pending => "pending",
        /// It is complete.
        Committed => "committed",
        /// It waits for its link to be removed.
        Deleting => "deleting",
    }
}

label_values! {
    /// Something that was found out of order and brought in order.
    Repair {
        /// Something else had changed an attachment on the node while the agent ran.
        Disturbed => "disturbed",
        /// Something else had changed the node itself: summaries, anycast routes, gateway, settings.
        Node => "node",
        /// At the start, a complete attachment differed from its record in the kernel and was mended.
        Mended => "mended",
        /// A half made or half deleted attachment was taken away.
        Undone => "undone",
        /// A link without a record was removed.
        Orphan => "orphan",
        /// A record that could not be read was made anew from the kernel.
        Salvaged => "salvaged",
        /// A record of another boot was dropped.
        OtherBoot => "other_boot",
    }
}

label_values! {
    /// How a configuration for BIRD has ended.
    BirdResult {
        /// BIRD took it.
        Applied => "applied",
        /// BIRD did not; the last good one stays.
        Refused => "refused",
        /// BIRD could not be asked, or the file could not be written; tried again.
        Failed => "failed",
    }
}

label_values! {
    /// How far a drain is.
    Phase {
        /// What is announced carries GRACEFUL_SHUTDOWN.
        Marked => "marked",
        /// Nothing is announced.
        Withdrawn => "withdrawn",
    }
}

label_values! {
    /// A watch on the API server.
    Watch {
        /// Of this node's pods.
        Pods => "pods",
        /// Of this node's NodeConfig.
        NodeConfig => "node_config",
        /// Of the node itself.
        Node => "node",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) verb: Verb,
    pub(super) code: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct VerbLabels {
    pub(super) verb: Verb,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StepLabels {
    pub(super) verb: Verb,
    pub(super) step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RepairLabels {
    pub(super) kind: Repair,
}
