//! Wires the license of mode `contract`: calls of License Manager, notices about the license, and giving seats back.

use std::sync::Arc;

use super::Surroundings;
use crate::api::license::LicensePart;
use crate::config::{self, ClockSource, Config, LicenseModel, OnDenied};
use crate::entitlement::Publisher;
use crate::license::counted::Counted;
use crate::license::judge::{Model, Terms};
use crate::license::machine::Policy;
use crate::license::memory::Store;
use crate::license::telling::{self, Rule};
use crate::license::{self, Drain, KnowledgePublisher, Licensing, Stop, knowledge};
use crate::shutdown::{Parts, until};
use tollgate_aws::licensing::{LicenseManager, Settings};

/// What a license must have; `None` outside mode `contract`.
#[must_use]
pub(crate) fn terms(config: &Config) -> Option<Terms> {
    let (product, license) = (&config.product, &config.license);
    // In mode `contract` the configuration always has a product ID.
    let product_id = product.product_id.clone().filter(|_| product.mode.asks_license_manager())?;
    Some(Terms {
        product_id,
        key_fingerprint: product.key_fingerprint.clone(),
        model: match license.model {
            LicenseModel::Check => Model::Check,
            LicenseModel::Floating => Model::Floating,
        },
        wanted: license.entitlements.clone(),
        seats_per_pod: license.seats_per_pod,
        end_grace: license.end_grace,
    })
}

/// The settings of License Manager's client.
#[must_use]
pub(crate) fn client_settings(license: &config::License) -> Settings {
    Settings { region: license.region.clone(), token_file: license.token_file.clone() }
}

/// The parts of mode `contract`, before the first call.
pub(super) struct Contract {
    /// `GET /v1/license`.
    pub(super) part: LicensePart,
    /// Gives seats back at the end.
    pub(super) drain: Drain,
    config: license::Config,
    rule: Rule,
    settings: Settings,
    store: Option<Store>,
    follows: bool,
    knowledge: KnowledgePublisher,
    stop: Stop,
}

impl Contract {
    /// From the configuration; `None` outside mode `contract`.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let (product, license, registration) = (&config.product, &config.license, &config.registration);
        let terms = terms(config)?;
        let model = match terms.model {
            Model::Check => "check",
            Model::Floating => "floating",
        };
        let policy = Policy {
            terms,
            grace_period: registration.grace_period,
            renew_every: license.renew_every,
            unavailable_after: registration.unavailable_after,
            exit_when_refused: registration.on_denied == OnDenied::Exit,
            stays_once_open: registration.stays_once_open,
        };
        let rule = Rule {
            renew_every: license.renew_every,
            grace_period: registration.grace_period,
            end_grace: license.end_grace,
        };
        let (knowledge, held) = knowledge::channel();
        let (stop, drain) = Stop::within(config.usage.shutdown_grace);
        Some(Self {
            part: LicensePart { held, model },
            drain,
            config: license::Config {
                policy,
                allow_emulated: product.allow_emulated,
                docs_url: product.docs_url.clone(),
            },
            rule,
            settings: client_settings(license),
            store: config.state.dir.path().map(|folder| Store::new(folder.to_owned())),
            follows: matches!(config.clock, ClockSource::Follow(_)),
            knowledge,
            stop,
        })
    }

    /// Starts the parts.
    pub(super) fn start(self, surroundings: &Surroundings, publisher: Publisher, parts: &mut Parts) {
        let Surroundings { aws, clock, metrics, identity, .. } = surroundings.clone();
        let told = telling::follow(self.part.held, self.rule, clock.clone(), Arc::clone(&metrics));
        parts.spawn("license notices", until(parts.stop(), told));
        let service = Arc::new(LicenseManager::new(aws, self.settings));
        let service = Arc::new(Counted::new(service, Arc::clone(&metrics)));
        let (config, knowledge, store, stop, follows) =
            (self.config, self.knowledge, self.store, self.stop, self.follows);
        parts.spawn_deciding("license", async move {
            if follows {
                // Seats expire by the clock source, so wait for its first reading.
                clock.first_reading().await;
            }
            let pod = identity.resolve_soon().await;
            let surroundings =
                license::Surroundings { service, clock, publisher, knowledge, store, metrics, stop };
            Licensing::new(config, pod, surroundings).run().await
        });
    }
}
