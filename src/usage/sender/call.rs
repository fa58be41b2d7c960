//! One call: from records to a request, and to what AWS said of each of them.

use std::sync::Arc;

use super::{Outlet, Settings};
use crate::marketplace::{
    BatchMeterUsage, Fault, Meter, MeterUsage, RecordStatus, Region, Signing, UsageRecord,
};
use crate::usage::event::Customer;
use crate::usage::ledger::Record;

/// AWS's answer: a status for each record, in their order.
pub(super) struct Answer {
    pub(super) statuses: Vec<RecordStatus>,
    pub(super) emulated: bool,
}

/// Where records of one call go: where they went before, or to the region that is asked at present.
fn region(records: &[Record]) -> Option<Region> {
    records.iter().find_map(|record| record.region.clone())
}

/// Makes the call of these records, one attempt. The request is made now, so that the records need not be kept.
pub(super) fn call(
    settings: &Settings,
    aws: Arc<dyn Meter>,
    records: &mut [Record],
    signing: Signing,
) -> impl Future<Output = Result<Answer, Fault>> + Send + use<> {
    let product_code = settings.product_code.clone();
    let region = region(records);
    let request = match (settings.outlet, records) {
        (Outlet::MeterUsage, [record, ..]) => Request::One(MeterUsage {
            product_code,
            dimension: record.dimension.clone(),
            timestamp: record.timestamp,
            quantity: record.quantity,
            decimal: record.decimal,
            allocations: std::mem::take(&mut record.allocations),
            client_token: record.client_token.clone(),
            dry_run: false,
            region,
        }),
        (_, records) => {
            let licensed = records.iter().any(|record| is_licensed(&record.customer));
            Request::Batch(BatchMeterUsage {
                // Under Concurrent Agreements the licence names the product.
                product_code: (!licensed).then_some(product_code),
                records: records.iter_mut().map(usage_record).collect(),
                region,
            })
        }
    };
    async move {
        match request {
            Request::One(request) => {
                let metered = aws.meter_usage(request, signing).await?;
                let statuses = vec![RecordStatus::Success(metered.metering_record_id)];
                Ok(Answer { statuses, emulated: metered.emulated })
            }
            Request::Batch(request) => {
                let metered = aws.batch_meter_usage(request, signing).await?;
                Ok(Answer { statuses: metered.statuses, emulated: metered.emulated })
            }
        }
    }
}

enum Request {
    One(MeterUsage),
    Batch(BatchMeterUsage),
}

const fn is_licensed(customer: &Customer) -> bool {
    matches!(customer, Customer::Account { license_arn: Some(_), .. })
}

pub(super) fn usage_record(record: &mut Record) -> UsageRecord {
    let (customer_identifier, customer_account_id, license_arn) = match record.customer.clone() {
        Customer::Own => (None, None, None),
        Customer::Identifier(identifier) => (Some(identifier), None, None),
        Customer::Account { account_id, license_arn } => (None, Some(account_id), license_arn),
    };
    UsageRecord {
        customer_identifier,
        customer_account_id,
        license_arn,
        dimension: record.dimension.clone(),
        timestamp: record.timestamp,
        quantity: record.quantity,
        decimal: record.decimal,
        allocations: std::mem::take(&mut record.allocations),
    }
}
