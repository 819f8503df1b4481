# One image with everything that runs on a node: the CNI plugin and the program that
# installs it, the agent, and BIRD. Which of them a container runs is said in its
# command; there is no entry point.
#
#   make image                          flock:dev
#   make image IMAGE=registry/flock:1   another name
#
# Which registry has the two images below is for the builder to know. buildah reads it from
# registries.conf (unqualified-search-registries), or give the full names:
#
#   make image RUST_IMAGE=… BASE_IMAGE=…

ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS builder
WORKDIR /src

# What was compiled stays in the cache for the next build. The crates that cargo
# downloads are not kept in one: it would hide those that a builder image brings along,
# with which no network is needed.
COPY Cargo.toml Cargo.lock ./
COPY flock-core flock-core
COPY flock-netlink flock-netlink
COPY flock-k8s flock-k8s
COPY flock-bird flock-bird
COPY flock-bin flock-bin
COPY examples examples

# Cargo tells what changed by its time, and a checkout may bring back an older file:
# the workspace's own files count as new each time, and only its crates are built again.
#
# The plugin is linked statically since it runs on the host, whose libraries are not
# those of this image.
RUN --mount=type=cache,target=/src/target,sharing=locked \
    set -eu; \
    find . -path ./target -prune -o -type f -name '*.*' -exec touch {} +; \
    host=$(rustc -vV | sed -n 's/^host: //p'); \
    cargo rustc --locked --package flock-bin --no-default-features --bin flock \
        --profile plugin --target "$host" -- -C target-feature=+crt-static; \
    cargo build --locked --release --package flock-bin --bin flock-agent --bin flock-installer; \
    install -D -m 0755 "target/$host/plugin/flock" /out/usr/local/lib/flock/flock; \
    install -D -m 0755 -s -t /out/usr/local/bin target/release/flock-agent target/release/flock-installer

FROM ${BASE_IMAGE}

# A base image that has BIRD needs no network.
RUN set -eu; \
    if ! command -v bird >/dev/null; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends bird2; \
    fi; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
        /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /etc/bird; \
    bird --version

COPY --from=builder /out/ /

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flock" \
      org.opencontainers.image.description="A CNI for Kubernetes that routes: plugin, agent, installer and BIRD" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# What is started without a user of its own can do no harm. The containers that need
# root (all those on a node: they write the host's files and its routes) say so in their
# manifests.
USER nobody

CMD ["flock-agent", "--help"]
