//! The commands `certs make`, `certs show` and `certs rotate`.
//!
//! Guarantees that nothing is overwritten unasked, that a certificate of no use is named with its
//! place, the reason and a remedy, and that a cluster serves on while certificates are replaced.

mod look;
mod make;
mod rotate;
mod show;

use jiff::Timestamp;

use super::{Context, print, print_list};
use crate::arguments::{Certs, Format, Global};
use crate::certificate::{Row, to_json, to_table};
use crate::exit::Failure;
use crate::target::Named;

/// Carries out a command about certificates.
pub async fn run(certs: Certs, global: Global, named: Named) -> Result<(), Failure> {
    match certs {
        Certs::Make(make) => make::make(&make, &global, named).await,
        Certs::Show { path: Some(path) } => show::show_path(&path, global.output),
        Certs::Show { path: None } => {
            let context = Context::open(global, named, false).await?;
            show::show_cluster(&context).await
        }
        Certs::Rotate(rotate) => {
            let context = Context::open(global, named, true).await?;
            rotate::rotate(&context, &rotate).await
        }
    }
}

/// Prints certificates.
fn print_rows(format: Format, rows: &[Row]) -> Result<(), Failure> {
    let now = Timestamp::now();
    print_list(format, &to_table(rows, now), to_json(rows, now))
}
