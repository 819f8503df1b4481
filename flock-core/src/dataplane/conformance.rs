//! Contract tests of the trait, one public function per case.
