//! Orders that change the world: the world file (TOML) and the bodies of the admin interface (JSON), with the same
//! member names.
//!
//! - An order contains only the members that change; new things get defaults for the others.
//! - The faults of an order are reported together, each with its place, and in a file with its line.
//! - An order with a fault changes nothing.

mod contract;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

pub(crate) use self::contract::ContractDocument;
use self::place::{Lines, Place};
use super::contract::Contract;
use super::{
    Agreements, Customer, Entitlement, EntitlementValue, KeyVersion, License, Platform, Pod, Pricing,
    Product, Secret, World,
};
use crate::model;
use crate::operation::Operation;
use tollgate_time::Timestamp;

/// The faults of an order, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct OrderError(pub(crate) Vec<String>);

/// A world file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorldDocument {
    region: Option<String>,
    regions: Option<Vec<String>>,
    account_id: Option<String>,
    platform: Option<String>,
    seller_account_id: Option<String>,
    #[serde(default)]
    disabled_regions: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    switches: BTreeMap<String, String>,
    #[serde(default)]
    products: Vec<ProductDocument>,
    #[serde(default)]
    customers: Vec<CustomerDocument>,
    #[serde(default)]
    licenses: Vec<ContractDocument>,
    #[serde(default)]
    pods: Vec<PodDocument>,
}

/// An order about a product.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductDocument {
    product_code: String,
    pricing: Option<Pricing>,
    agreements: Option<Agreements>,
    seller_account_id: Option<String>,
    dimensions: Option<Vec<String>>,
    keys: Option<Vec<KeyDocument>>,
    disabled: Option<Vec<String>>,
    /// Adds the next key version; the newest one so far becomes rotated.
    rotate: Option<bool>,
    /// How long from now the newest version so far remains valid; by default it expires at once.
    rotate_after: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyDocument {
    version: i32,
    expires_at: Option<String>,
}

/// An order about a customer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustomerDocument {
    account_id: String,
    identifier: Option<String>,
    /// Subscribed to every product, or to `product_code` if that is given.
    subscribed: Option<bool>,
    product_code: Option<String>,
    licenses: Option<Vec<LicenseDocument>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenseDocument {
    product_code: String,
    license_arn: Option<String>,
    agreement_id: Option<String>,
    subscribed: Option<bool>,
    active_from: Option<String>,
    active_until: Option<String>,
    entitlements: Option<Vec<LicenseEntitlementDocument>>,
}

/// What a license of a SaaS product includes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LicenseEntitlementDocument {
    dimension: String,
    value: EntitlementValue,
    expires_at: Option<String>,
}

/// An order about a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodDocument {
    /// `access_key` or `session` names the pod.
    access_key: Option<String>,
    session: Option<String>,
    account_id: Option<String>,
    region: Option<String>,
    platform: Option<String>,
    denied: Option<Vec<String>>,
    /// Allows all operations or none; replaces `denied`.
    allowed: Option<bool>,
    started_at: Option<String>,
    secret_key: Option<String>,
}

/// Most dimensions of one product (AWS Marketplace Catalog quotas; the older guide says 24).
const DIMENSIONS_MAX: usize = 200;
/// Most key versions of one product: each needs a private key in memory, and no product of AWS's is known to have two.
const KEY_VERSIONS_MAX: usize = 16;
/// Most products, licenses and pods that can be declared: more than any test needs, and some megabytes.
pub(crate) const DECLARED_MAX: usize = 10_000;
/// Most customers that can be declared: a seller's whole list, for a test of its service at full size. With a license
/// each they take 240 MiB, because `reset` needs the world of the start, too.
const CUSTOMERS_MAX: usize = 100_000;
/// Most faults of one order that are told: enough to mend it, and no flood where one mistake is in every line.
const FAULTS_SHOWN_MAX: usize = 100;
/// Most licenses of one customer.
const LICENSES_MAX: usize = 100;
/// Longest name of a kind that the model does not limit: of pods, identifiers, regions.
const NAME_CHARS_MAX: usize = 255;

/// The default world; `--print-world` prints it, as a file to start one's own from.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

impl World {
    /// Parses a world file. Each fault names its line.
    pub(crate) fn of_toml(text: &str) -> Result<Self, OrderError> {
        let document: WorldDocument = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| Lines::of_byte(text, span.start));
            // A value that the message quotes may contain line ends.
            let message = error.message().replace(['\n', '\r'], " ");
            OrderError(vec![format!("line {line}: {message}")])
        })?;
        let mut faults = Faults::default();
        let world = document.world(&mut faults);
        if faults.list.is_empty() {
            return Ok(world);
        }
        let lines = Lines::of(text);
        Err(faults.told(|place| format!("line {}: ", lines.of_place(place))))
    }

    /// The default world.
    pub(crate) fn of_default() -> Self {
        Self::of_toml(DEFAULT).expect("the default world is valid, which a test checks")
    }

    /// A product after an order; `now` is the time of a rotation.
    pub(crate) fn ordered_product(
        &self,
        now: Timestamp,
        order: ProductDocument,
    ) -> Result<(String, Product), OrderError> {
        Faults::of(|faults| order.product(self, now, &Place::root(), faults))
    }

    /// A customer after an order; `now` is when a subscription ends that the order ends.
    pub(crate) fn ordered_customer(
        &self,
        now: Timestamp,
        order: CustomerDocument,
    ) -> Result<(String, Customer), OrderError> {
        let (account_id, mut customer) = Faults::of(|faults| order.customer(self, &Place::root(), faults))?;
        customer.note_ends(self.customers.get(&account_id), now);
        Ok((account_id, customer))
    }

    /// A customer after one of its licenses began or changed (`usable`), or ended. Of a license for which none is
    /// declared, the standard one is meant.
    pub(crate) fn provisioned(
        &self,
        account_id: &str,
        license: &License,
        usable: bool,
        entitlements: Option<Vec<LicenseEntitlementDocument>>,
        now: Timestamp,
    ) -> Result<Customer, OrderError> {
        let entitlements = entitlements
            .map(|orders| {
                let at = Place::root().member("entitlements");
                Faults::of(|faults| license_entitlements(orders, &at, faults))
            })
            .transpose()?;
        let before = self.customers.get(account_id);
        let mut customer = before.cloned().unwrap_or_default();
        if customer.licenses.iter().all(|known| known.arn != license.arn) {
            customer.licenses.push(license.clone());
        }
        for known in customer.licenses.iter_mut().filter(|known| known.arn == license.arn) {
            known.subscribed = usable;
            if let Some(entitlements) = &entitlements {
                known.entitlements.clone_from(entitlements);
            }
        }
        customer.note_ends(before, now);
        Ok(customer)
    }

    /// A contract after an order, with its ARN.
    pub(crate) fn ordered_contract(&self, order: ContractDocument) -> Result<(String, Contract), OrderError> {
        Faults::of(|faults| order.contract(self, &Place::root(), faults))
    }

    /// A pod after an order.
    pub(crate) fn ordered_pod(&self, order: PodDocument) -> Result<(String, Pod), OrderError> {
        Faults::of(|faults| order.pod(self, &Place::root(), faults))
    }
}

#[derive(Default)]
struct Faults {
    list: Vec<(Place, String)>,
}

impl Faults {
    fn of<T>(check: impl FnOnce(&mut Self) -> T) -> Result<T, OrderError> {
        let mut faults = Self::default();
        let checked = check(&mut faults);
        if faults.list.is_empty() {
            return Ok(checked);
        }
        Err(faults.told(|_| String::new()))
    }

    /// What the order's author reads; `before` begins the fault of a place.
    fn told(&self, before: impl Fn(&Place) -> String) -> OrderError {
        let shown = self.list.iter().take(FAULTS_SHOWN_MAX).map(|(place, message)| {
            let before = before(place);
            if place.is_root() { format!("{before}{message}") } else { format!("{before}{place}: {message}") }
        });
        let more = self.list.len().saturating_sub(FAULTS_SHOWN_MAX);
        OrderError(shown.chain((more > 0).then(|| format!("and {more} more faults"))).collect())
    }

    fn add(&mut self, place: Place, message: impl Into<String>) {
        self.list.push((place, message.into()));
    }

    fn full(&mut self, place: &Place, count: usize, max: usize, what: &str) {
        if count > max {
            self.add(place.clone(), format!("there are {count} {what}, at most {max} are possible"));
        }
    }

    /// Checks that the service's model accepts a text for the member of this name.
    fn modelled(&mut self, place: Place, member: &str, text: &str) {
        if let Err(rule) = model::check_text(member, text) {
            self.add(place, format!("{text:?} is no {member}: {rule}"));
        } else if text.is_empty() {
            self.add(place, "it must not be empty");
        }
    }

    fn account(&mut self, place: Place, text: &str) {
        if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
            self.add(place, format!("{text:?} is no AWS account: it has 12 digits, in quotes"));
        }
    }

    fn name(&mut self, place: Place, text: &str) {
        if text.is_empty() || text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
            self.add(place, format!("a name has 1 to {NAME_CHARS_MAX} printable characters"));
        }
    }

    fn region(&mut self, place: Place, text: &str) {
        let mut parts = text.split('-');
        let words = parts.next_back().is_some_and(|last| last.parse::<u8>().is_ok())
            && parts.clone().count() >= 2
            && parts.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase()));
        if !words || text.len() > NAME_CHARS_MAX {
            self.add(place, format!("{text:?} is no AWS region, such as us-east-1"));
        }
    }

    fn time(&mut self, place: Place, text: Option<&String>) -> Option<Timestamp> {
        let text = text?;
        let at = Timestamp::parse(text);
        if at.is_none() {
            self.add(place, format!("{text:?} is no time such as 2026-11-24T08:00:00Z, in quotes"));
        }
        at
    }

    fn platform(&mut self, place: Place, text: &str) -> Option<Platform> {
        let found = Platform::NAMES.iter().find(|(name, _)| *name == text).map(|(_, platform)| *platform);
        if found.is_none() {
            let names: Vec<&str> = Platform::NAMES.iter().map(|(name, _)| *name).collect();
            self.add(place, format!("{text:?} is no platform; there are {}", names.join(", ")));
        }
        found
    }

    fn operation(&mut self, place: Place, text: &str) -> Option<Operation> {
        let found = Operation::of_name(text);
        if found.is_none() {
            let names = Operation::ALL.map(Operation::name).join(", ");
            self.add(place, format!("{text:?} is no operation; there are {names}"));
        }
        found
    }

    fn operations(&mut self, place: &Place, texts: &[String]) -> BTreeSet<Operation> {
        let checked = texts.iter().enumerate().map(|(index, text)| self.operation(place.item(index), text));
        checked.collect::<Vec<_>>().into_iter().flatten().collect()
    }
}

impl WorldDocument {
    fn world(self, faults: &mut Faults) -> World {
        let root = Place::root();
        let mut world = World::empty();
        if let Some(region) = self.region {
            faults.region(root.member("region"), &region);
            world.region = region;
        }
        if let Some(regions) = self.regions {
            for (index, region) in regions.iter().enumerate() {
                faults.region(root.member("regions").item(index), region);
            }
            world.regions = regions.into_iter().collect();
        }
        for (name, account, into) in [
            ("account_id", self.account_id, &mut world.account_id),
            ("seller_account_id", self.seller_account_id, &mut world.seller_account_id),
        ] {
            if let Some(account) = account {
                faults.account(root.member(name), &account);
                *into = account;
            }
        }
        if let Some(platform) = self.platform {
            world.platform = faults.platform(root.member("platform"), &platform).unwrap_or_default();
        }
        for (name, regions) in self.disabled_regions {
            let place = root.member("disabled_regions").member(&name);
            for (index, region) in regions.iter().enumerate() {
                faults.region(place.item(index), region);
            }
            if let Some(operation) = faults.operation(place, &name) {
                world.disabled_regions.insert(operation, regions.into_iter().collect());
            }
        }
        for (name, answer) in &self.switches {
            if let Err(error) = world.switches.set(name, answer) {
                faults.add(root.member("switches").member(name), error);
            }
        }
        world.declare(self.products, self.customers, self.pods, faults);
        for (index, order) in self.licenses.into_iter().enumerate() {
            let place = root.member("licenses").item(index);
            let (arn, contract) = order.contract(&world, &place, faults);
            if world.contracts.insert(arn, contract).is_some() {
                faults.add(
                    place,
                    "the license is declared twice; another of the same product has a license_arn",
                );
            }
        }
        world
    }
}

impl World {
    fn declare(
        &mut self,
        products: Vec<ProductDocument>,
        customers: Vec<CustomerDocument>,
        pods: Vec<PodDocument>,
        faults: &mut Faults,
    ) {
        let root = Place::root();
        for (index, order) in products.into_iter().enumerate() {
            let place = root.member("products").item(index);
            // A file has no current time: a rotation in it happened before everything else.
            let (code, product) = order.product(self, Timestamp::from_unix_seconds(0), &place, faults);
            if self.products.insert(code, product).is_some() {
                faults.add(place.member("product_code"), "the product is declared twice");
            }
        }
        for (index, order) in customers.into_iter().enumerate() {
            let place = root.member("customers").item(index);
            let (account_id, customer) = order.customer(self, &place, faults);
            if self.customers.insert(account_id, customer).is_some() {
                faults.add(place.member("account_id"), "the customer is declared twice");
            }
        }
        for (index, order) in pods.into_iter().enumerate() {
            let place = root.member("pods").item(index);
            let (name, pod) = order.pod(self, &place, faults);
            if self.pods.insert(name, pod).is_some() {
                faults.add(place, "the pod is declared twice");
            }
        }
    }
}

impl ProductDocument {
    fn product(self, world: &World, now: Timestamp, at: &Place, faults: &mut Faults) -> (String, Product) {
        faults.modelled(at.member("product_code"), "ProductCode", &self.product_code);
        let known = world.products.get(&self.product_code);
        faults.full(at, world.products.len() + usize::from(known.is_none()), DECLARED_MAX, "products");
        let mut product = known.cloned().unwrap_or_default();
        if let Some(pricing) = self.pricing {
            product.pricing = pricing;
        }
        if let Some(agreements) = self.agreements {
            product.agreements = agreements;
        }
        if let Some(seller) = self.seller_account_id {
            faults.account(at.member("seller_account_id"), &seller);
            product.seller_account_id = Some(seller);
        }
        if let Some(dimensions) = self.dimensions {
            let place = at.member("dimensions");
            faults.full(&place, dimensions.len(), DIMENSIONS_MAX, "dimensions");
            for (index, dimension) in dimensions.iter().enumerate() {
                faults.modelled(place.item(index), "UsageDimension", dimension);
            }
            product.dimensions = dimensions.into_iter().collect();
        }
        if let Some(disabled) = self.disabled {
            product.disabled = faults.operations(&at.member("disabled"), &disabled);
        }
        if let Some(keys) = self.keys {
            product.keys = keys_of(keys, &at.member("keys"), faults);
        }
        if product.keys.is_empty() {
            product.keys.insert(1, KeyVersion::default());
        }
        let after = self.rotate_after.as_deref().map(|text| {
            crate::duration(text).unwrap_or_else(|| {
                faults.add(at.member("rotate_after"), format!("{text:?} is no duration such as 1h30m"));
                Duration::ZERO
            })
        });
        if self.rotate == Some(true) || after.is_some() {
            rotate(&mut product, now.plus(after.unwrap_or_default()));
        }
        faults.full(&at.member("keys"), product.keys.len(), KEY_VERSIONS_MAX, "key versions");
        (self.product_code, product)
    }
}

fn keys_of(keys: Vec<KeyDocument>, at: &Place, faults: &mut Faults) -> BTreeMap<i32, KeyVersion> {
    let mut versions = BTreeMap::new();
    if keys.is_empty() {
        faults.add(at.clone(), "a product has at least one key version");
    }
    for (index, key) in keys.into_iter().enumerate() {
        let place = at.item(index);
        let expires_at = faults.time(place.member("expires_at"), key.expires_at.as_ref());
        if key.version < 1 {
            faults.add(place.member("version"), "key versions begin with 1");
        }
        if versions.insert(key.version, KeyVersion { expires_at }).is_some() {
            faults.add(place.member("version"), "the version is declared twice");
        }
    }
    versions
}

fn rotate(product: &mut Product, expires_at: Timestamp) {
    if let Some(mut newest) = product.keys.last_entry() {
        newest.get_mut().expires_at = Some(expires_at);
        let next = newest.key().saturating_add(1);
        product.keys.insert(next, KeyVersion::default());
    }
}

impl CustomerDocument {
    fn customer(self, world: &World, at: &Place, faults: &mut Faults) -> (String, Customer) {
        faults.account(at.member("account_id"), &self.account_id);
        let known = world.customers.get(&self.account_id);
        faults.full(at, world.customers.len() + usize::from(known.is_none()), CUSTOMERS_MAX, "customers");
        let fresh = || Customer {
            identifier: format!("customer-{}", self.account_id),
            // A new customer is subscribed to everything unless the order says otherwise or names products.
            subscribed: self.licenses.is_none() && self.product_code.is_none(),
            unsubscribed_at: None,
            licenses: Vec::new(),
        };
        let mut customer = known.cloned().unwrap_or_else(fresh);
        if let Some(identifier) = self.identifier {
            let place = at.member("identifier");
            faults.name(place.clone(), &identifier);
            let other =
                world.customers.account_of_identifier(&identifier).filter(|other| *other != self.account_id);
            if let Some(other) = other {
                faults.add(place, format!("customer {other} has this identifier"));
            }
            customer.identifier = identifier;
        }
        if let Some(licenses) = self.licenses {
            let place = at.member("licenses");
            faults.full(&place, licenses.len(), LICENSES_MAX, "licenses");
            customer.licenses.clear();
            for (index, license) in licenses.into_iter().enumerate() {
                license.declare(world, &self.account_id, &mut customer, &place.item(index), faults);
            }
        }
        match (self.subscribed, self.product_code) {
            (Some(subscribed), None) => {
                customer.subscribed = subscribed;
                for license in &mut customer.licenses {
                    license.subscribed = subscribed;
                }
            }
            (Some(subscribed), Some(code)) => {
                known_product(world, &code, at.member("product_code"), faults);
                let others = customer.licenses.iter().filter(|license| license.product_code != code);
                let mut licenses: Vec<License> = others.cloned().collect();
                let mut named = customer.licenses_for(&self.account_id, &code);
                named.iter_mut().for_each(|license| license.subscribed = subscribed);
                licenses.append(&mut named);
                customer.licenses = licenses;
            }
            (None, Some(_)) => faults.add(at.member("product_code"), "it needs subscribed = true or false"),
            (None, None) => {}
        }
        (self.account_id, customer)
    }
}

fn known_product(world: &World, code: &str, at: Place, faults: &mut Faults) {
    if !world.products.contains_key(code) {
        let names: Vec<&str> = world.products.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        faults.add(at, format!("there is no product {code:?}; there are {names}"));
    }
}

impl LicenseDocument {
    fn declare(
        self,
        world: &World,
        account_id: &str,
        customer: &mut Customer,
        at: &Place,
        faults: &mut Faults,
    ) {
        known_product(world, &self.product_code, at.member("product_code"), faults);
        let standard = customer.licenses_for(account_id, &self.product_code).swap_remove(0);
        let arn = self.license_arn.unwrap_or(standard.arn);
        faults.modelled(at.member("license_arn"), "LicenseArn", &arn);
        let taken = world.license(&arn).is_some_and(|(owner, _)| owner != account_id)
            || customer.licenses.iter().any(|license| license.arn == arn);
        if taken {
            faults.add(at.member("license_arn"), format!("{arn} is another license's; name one"));
        }
        let agreement_id = self.agreement_id.unwrap_or(standard.agreement_id);
        faults.modelled(at.member("agreement_id"), "AgreementId", &agreement_id);
        let active_from = faults.time(at.member("active_from"), self.active_from.as_ref());
        let active_until = faults.time(at.member("active_until"), self.active_until.as_ref());
        if active_from.zip(active_until).is_some_and(|(from, until)| until <= from) {
            faults.add(at.member("active_until"), "the license ends before it begins");
        }
        let subscribed = self.subscribed.unwrap_or(true);
        let place = at.member("entitlements");
        let entitlements = license_entitlements(self.entitlements.unwrap_or_default(), &place, faults);
        let product_code = self.product_code;
        customer.licenses.push(License {
            product_code,
            arn,
            agreement_id,
            subscribed,
            active_from,
            active_until,
            unsubscribed_at: None,
            entitlements,
        });
    }
}

fn license_entitlements(
    orders: Vec<LicenseEntitlementDocument>,
    at: &Place,
    faults: &mut Faults,
) -> Vec<Entitlement> {
    faults.full(at, orders.len(), DIMENSIONS_MAX, "entitlements");
    let mut dimensions = BTreeSet::new();
    let mut entitlements = Vec::with_capacity(orders.len());
    for (index, order) in orders.into_iter().enumerate() {
        let place = at.item(index);
        faults.name(place.member("dimension"), &order.dimension);
        if order.dimension.chars().any(char::is_whitespace) {
            faults.add(place.member("dimension"), "it must not contain blanks");
        }
        if !dimensions.insert(order.dimension.clone()) {
            faults.add(place.member("dimension"), "the dimension is declared twice");
        }
        if let EntitlementValue::Number(number) = &order.value
            && !number.is_f64()
            && number.as_i64().is_none_or(|integer| i32::try_from(integer).is_err())
        {
            faults.add(place.member("value"), "an integer has 32 bits; a double is written with a fraction");
        }
        let expires_at = faults.time(place.member("expires_at"), order.expires_at.as_ref());
        entitlements.push(Entitlement { dimension: order.dimension, value: order.value, expires_at });
    }
    entitlements
}

impl PodDocument {
    fn pod(self, world: &World, at: &Place, faults: &mut Faults) -> (String, Pod) {
        let name = match (self.access_key, self.session) {
            (Some(name), None) => {
                faults.name(at.member("access_key"), &name);
                name
            }
            (None, Some(name)) => {
                faults.name(at.member("session"), &name);
                name
            }
            _ => {
                faults.add(at.clone(), "a pod is named by access_key or by session, by one of them");
                String::new()
            }
        };
        let known = world.pods.get(&name);
        faults.full(at, world.pods.len() + usize::from(known.is_none()), DECLARED_MAX, "pods");
        let mut pod = known.cloned().unwrap_or_default();
        if let Some(account_id) = self.account_id {
            faults.account(at.member("account_id"), &account_id);
            pod.account_id = Some(account_id);
        }
        if let Some(region) = self.region {
            faults.region(at.member("region"), &region);
            pod.region = Some(region);
        }
        if let Some(platform) = self.platform {
            pod.platform = faults.platform(at.member("platform"), &platform);
        }
        match (self.denied, self.allowed) {
            (Some(_), Some(_)) => faults.add(at.member("allowed"), "give either allowed or denied"),
            (Some(denied), None) => pod.denied = faults.operations(&at.member("denied"), &denied),
            (None, Some(true)) => pod.denied = BTreeSet::new(),
            (None, Some(false)) => pod.denied = Operation::ALL.into(),
            (None, None) => {}
        }
        if self.started_at.is_some() {
            pod.started_at = faults.time(at.member("started_at"), self.started_at.as_ref());
        }
        if let Some(secret) = self.secret_key {
            pod.secret_key = Some(Secret(secret));
        }
        (name, pod)
    }
}

#[cfg(test)]
mod tests;
