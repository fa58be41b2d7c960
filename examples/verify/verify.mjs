// Asks the sidecar for AWS's answer to its own nonce and verifies it. Needs only Node, no package.
// Usage: node verify.mjs http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE
import { constants, randomBytes, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const [url, keyFile, productCode] = process.argv.slice(2);
const nonce = randomBytes(32).toString("base64url");
const answer = await fetch(`${url}/v1/attestations`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ nonce }),
});
const [header, payload, signature] = (await answer.json()).token.split(".");
const key = { key: readFileSync(keyFile), padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
const part = (text) => JSON.parse(Buffer.from(text, "base64url"));
const good =
  part(header).alg === "PS256" &&
  verify("sha256", `${header}.${payload}`, key, Buffer.from(signature, "base64url")) &&
  part(payload).nonce === nonce &&
  part(payload).productCode === productCode;
if (!good) throw new Error("not entitled");
console.log("entitled");
