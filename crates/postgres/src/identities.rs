//! The accounts of legacy identifiers, as `ResolveCustomer` answers them.

use std::time::Duration;

use tokio_postgres::types::Type;

use tollgate_ledger::lifecycle::IDENTIFIERS_MAX;
use tollgate_ledger::{IDENTITIES_MAX, LedgerError};
use tollgate_marketplace::customer::{is_account, is_identifier};

use crate::connect::{Failed, Link, Transaction};
use crate::lifecycle::{LOCK_PAUSE, LOCK_WAIT};
use crate::schema::{ALL_HOURS, LOCKS};

/// The identifiers of an account, the newest first.
pub(crate) async fn identifiers(link: &Link, account: &str) -> Result<Vec<String>, LedgerError> {
    const KNOWN: &str =
        "SELECT identifier FROM tollgate.identities WHERE account = $1 ORDER BY id DESC LIMIT $2";
    let rows = link.query(KNOWN, &[(&account, Type::TEXT), (&IDENTIFIERS_MAX, Type::INT8)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Notes the account of an identifier. Text that AWS would not accept as an identifier or an account is ignored.
pub(crate) async fn identify(link: &Link, identifier: &str, account: &str) -> Result<(), LedgerError> {
    if !is_identifier(identifier) || !is_account(account) {
        return Ok(());
    }
    let names = [(&identifier as _, Type::TEXT), (&account as _, Type::TEXT)];
    const KNOWN: &str = "SELECT 1 FROM tollgate.identities WHERE identifier = $1 AND account = $2";
    if !link.query(KNOWN, &names).await?.is_empty() {
        return Ok(());
    }
    let mut attempts = 0;
    let noting = loop {
        let noting = link.begin().await?;
        match lock(&noting, LOCK_WAIT[attempts]).await {
            Ok(()) => break noting,
            Err(failed) if failed.is_contention() && attempts + 1 < LOCK_WAIT.len() => {
                noting.rollback().await?;
                attempts += 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(failed) => return Err(failed.into()),
        }
    };
    noting
        .execute(
            "INSERT INTO tollgate.identities (identifier, account) VALUES ($1, $2)
             ON CONFLICT (identifier) DO UPDATE SET account = excluded.account",
            &names,
        )
        .await?;
    // Usage that was counted before the account was known.
    noting
        .execute(
            "INSERT INTO tollgate.forms (hour, account, form)
             SELECT hour, 'account ' || $2, form FROM tollgate.forms WHERE account = 'identifier ' || $1
             ON CONFLICT DO NOTHING",
            &names,
        )
        .await?;
    noting
        .batch(&format!(
            "DELETE FROM tollgate.identities WHERE id <= (SELECT max(id) FROM tollgate.identities) - {IDENTITIES_MAX};
             UPDATE tollgate.ledger SET version = version + 1"
        ))
        .await?;
    noting.commit_as("identify").await?;
    Ok(())
}

/// No replica counts usage with the old knowledge while this changes, and each asks again afterwards. New groups of
/// events wait behind this lock while it is waited for, as in a flush.
async fn lock(noting: &Transaction<'_>, wait: Duration) -> Result<(), Failed> {
    let wait = wait.as_millis();
    noting
        .batch(&format!(
            "SET LOCAL lock_timeout = '{wait}ms'; SELECT pg_advisory_xact_lock({LOCKS}, {ALL_HOURS}); \
             SET LOCAL lock_timeout = '5s'"
        ))
        .await
}
