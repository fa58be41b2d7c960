//! The macro that turns each row of the table of metrics into code and documentation.

use prometheus_client::registry::{Metric, Registry};

/// The documentation of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its heading in `docs/METRICS.md`.
    pub group: &'static str,
    /// Its name, without the suffix that the encoder adds to counters.
    pub name: &'static str,
    /// Type and unit.
    pub kind: &'static str,
    /// Its labels and their values.
    pub labels: &'static str,
    /// `stable` or `experimental`.
    pub stability: &'static str,
    /// What the value means.
    pub says: &'static str,
}

/// Creates for each row a field, its registration and its [`Spec`].
macro_rules! metrics {
    ($($group:literal {$(
        $field:ident: $type:ty = $make:expr => $name:literal {
            help: $help:literal,
            kind: $kind:literal,
            labels: $labels:literal,
            stability: $stability:literal,
            says: $says:literal,
        }
    )*})*) => {
        #[derive(Debug)]
        struct Series {
            $($($field: $type,)*)*
        }

        impl Series {
            fn register(registry: &mut Registry) -> Self {
                Self { $($($field: registered(registry, $name, $help, $make),)*)* }
            }
        }

        /// Every metric except `tollgate_build_info`.
        pub const SPECS: &[Spec] = &[$($(Spec {
            group: $group,
            name: $name,
            kind: $kind,
            labels: $labels,
            stability: $stability,
            says: $says,
        },)*)*];
    };
}

pub(super) fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

pub(super) use metrics;
