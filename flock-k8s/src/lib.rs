//! PodSource and NodeConfig of Flock from the Kubernetes API.
