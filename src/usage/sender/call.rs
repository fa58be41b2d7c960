//! One call: builds the request of its records, and turns AWS's answer into a status for each.

use std::sync::Arc;

use super::{Outlet, Settings};
use tollgate_marketplace::{
    BatchMeterUsage, Customer, Fault, HourUsage, Meter, MeterUsage, RecordStatus, Signing, UsageRecord,
};
use tollgate_metering::record::{Record, Whole};

/// AWS's answer: a status for each record, in their order.
pub(super) struct Answer {
    pub(super) statuses: Vec<RecordStatus>,
    pub(super) emulated: bool,
}

/// One attempt with these records. The request is built at once, so that of each record only what its answer needs is
/// kept.
pub(super) fn call(
    settings: &Settings,
    aws: Arc<dyn Meter>,
    records: Vec<Whole>,
    signing: Signing,
) -> (Vec<Record>, impl Future<Output = Result<Answer, Fault>> + Send + use<>) {
    let (records, usage): (Vec<Record>, Vec<HourUsage>) = records.into_iter().map(Whole::into_usage).unzip();
    let request = Request::new(settings, &records, usage);
    (records, request.ask(aws, signing))
}

enum Request {
    One(MeterUsage),
    Batch(BatchMeterUsage),
}

impl Request {
    fn new(settings: &Settings, records: &[Record], usage: Vec<HourUsage>) -> Self {
        let product_code = settings.product_code.clone();
        // The region of an earlier attempt, or the current one.
        let region = records.iter().find_map(|record| record.region.clone());
        let mut reports = records.iter().zip(usage);
        match (settings.outlet, reports.next()) {
            (Outlet::MeterUsage, Some((record, usage))) => Self::One(MeterUsage {
                product_code,
                dimension: record.dimension.clone(),
                usage,
                client_token: record.client_token.clone(),
                dry_run: false,
                region,
            }),
            (_, first) => {
                let licensed = records.iter().any(|record| is_licensed(&record.customer));
                Self::Batch(BatchMeterUsage {
                    // Under Concurrent Agreements the license ARN identifies the product.
                    product_code: (!licensed).then_some(product_code),
                    records: first.into_iter().chain(reports).map(usage_record).collect(),
                    region,
                })
            }
        }
    }

    async fn ask(self, aws: Arc<dyn Meter>, signing: Signing) -> Result<Answer, Fault> {
        match self {
            Self::One(request) => {
                let metered = aws.meter_usage(request, signing).await?;
                let statuses = vec![RecordStatus::Success(metered.metering_record_id)];
                Ok(Answer { statuses, emulated: metered.emulated })
            }
            Self::Batch(request) => {
                let metered = aws.batch_meter_usage(request, signing).await?;
                Ok(Answer { statuses: metered.statuses, emulated: metered.emulated })
            }
        }
    }
}

const fn is_licensed(customer: &Customer) -> bool {
    matches!(customer, Customer::Account { license_arn: Some(_), .. })
}

fn usage_record((record, usage): (&Record, HourUsage)) -> UsageRecord {
    UsageRecord { customer: record.customer.clone(), dimension: record.dimension.clone(), usage }
}
