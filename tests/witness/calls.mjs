// One call of each operation by the AWS SDK for JavaScript, unmodified; prints the results as JSON.
// Usage: node calls.mjs ENDPOINT REGISTRATION_TOKEN TIME
import {
  BatchMeterUsageCommand,
  MarketplaceMeteringClient,
  MeterUsageCommand,
  RegisterUsageCommand,
  ResolveCustomerCommand,
} from "@aws-sdk/client-marketplace-metering";

const [endpoint, registrationToken, time] = process.argv.slice(2);
const client = new MarketplaceMeteringClient({
  endpoint,
  region: "us-east-1",
  credentials: { accessKeyId: "javascript-pod", secretAccessKey: "any" },
});
const at = new Date(time);
const registered = await client.send(
  new RegisterUsageCommand({ ProductCode: "demohourly", PublicKeyVersion: 1, Nonce: "javascript" }),
);
const metered = await client.send(
  new MeterUsageCommand({ ProductCode: "demometered", Timestamp: at, UsageDimension: "requests", UsageQuantity: 3 }),
);
const batch = await client.send(
  new BatchMeterUsageCommand({
    ProductCode: "demosaas",
    UsageRecords: [{ Timestamp: at, CustomerIdentifier: "customer-111122223333", Dimension: "requests", Quantity: 4 }],
  }),
);
const customer = await client.send(new ResolveCustomerCommand({ RegistrationToken: registrationToken }));
console.log(
  JSON.stringify({
    parts: registered.Signature.split(".").length,
    record: metered.MeteringRecordId,
    statuses: batch.Results.map((result) => result.Status),
    unprocessed: batch.UnprocessedRecords.length,
    account: customer.CustomerAWSAccountId,
  }),
);
