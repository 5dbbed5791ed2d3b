//! Arguments of the commands that sign, check and compare.

use crate::provenance::{keys::Curve, policy::Predicate};
use clap::{Args, ValueEnum, builder::PossibleValue};
use std::path::PathBuf;

/// What `forget` adds for those who did not see the run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Provenance")]
pub struct ProvenanceArgs {
    /// Sign the result with this private key (PEM, P-256 or P-384) and claim how it was made and what was measured
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Commit to the data under this key, in place of digests that anyone could compare candidates with
    #[arg(long, value_name = "FILE")]
    pub commitment_key: Option<PathBuf>,
    /// What the run was asked for under; stands in stamp, report and claims
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KeyKind {
    /// To sign with: ECDSA on P-256
    P256,
    /// To sign with: ECDSA on P-384
    P384,
    /// To commit to data with
    Commitment,
}

impl KeyKind {
    /// The curve of a key that signs.
    pub fn curve(self) -> Option<Curve> {
        match self {
            Self::P256 => Some(Curve::P256),
            Self::P384 => Some(Curve::P384),
            Self::Commitment => None,
        }
    }
}

#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// File of the private key, readable by its owner alone; the public key goes to FILE.pub
    #[arg(short, long = "out", value_name = "FILE")]
    pub out: PathBuf,
    /// What the key is for
    #[arg(long, value_enum, default_value = "p256")]
    pub kind: KeyKind,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes: these commands give none
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct SignArgs {
    /// The folder to sign, all regular files of it
    pub folder: PathBuf,
    /// The private key, PEM, on P-256 or P-384
    #[arg(long, value_name = "FILE")]
    pub sign_key: PathBuf,
    /// Replace a signature
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes: these commands give none
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct AttestArgs {
    /// A folder that `forget` wrote
    pub folder: PathBuf,
    /// The private key, PEM, on P-256 or P-384
    #[arg(long, value_name = "FILE")]
    pub sign_key: PathBuf,
    /// Claim what `audit --json` measured of this model, instead of what the report says
    #[arg(long, value_name = "FILE", requires = "policy")]
    pub audit: Option<PathBuf>,
    /// The policy whose bounds the audit is held against
    #[arg(long, value_name = "FILE", requires = "audit")]
    pub policy: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes: these commands give none
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The model to check
    pub model: PathBuf,
    /// The model it was made from
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    /// The public key of who is to have signed it, PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// What the model has to be: a policy, JSON
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Claims that have to be there, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CLAIMS", requires = "key")]
    pub require: Vec<Predicate>,
    /// Train again as the report says and compare the weights
    #[arg(long, requires = "source", requires = "retain")]
    pub rederive: bool,
    /// The retain sample of the run, for --rederive
    #[arg(long, value_name = "DATA", requires = "rederive")]
    pub retain: Option<PathBuf>,
    /// The key that the data was committed to with, for --rederive
    #[arg(long, value_name = "FILE", requires = "rederive")]
    pub commitment_key: Option<PathBuf>,
    /// The ONNX Runtime library to use, for --rederive
    #[arg(long, value_name = "FILE", requires = "rederive")]
    pub ort_lib: Option<PathBuf>,
    /// Where the answer is yes, write what was verified as an in-toto statement (svr v0.2)
    #[arg(long, value_name = "FILE")]
    pub emit_svr: Option<PathBuf>,
    /// Sign that statement with this private key; FILE is then a bundle
    #[arg(long, value_name = "FILE", requires = "emit_svr")]
    pub svr_key: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// The answer alone, without the checks, notes and progress
    #[arg(long)]
    pub quiet: bool,
}

impl ValueEnum for Predicate {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.uri()))
    }
}

#[derive(Debug, Args)]
pub struct CommitArgs {
    /// The data: a file, a folder, or IDX files, as `forget` takes them
    pub data: PathBuf,
    /// The key, as `keygen --kind commitment` writes it
    #[arg(long, value_name = "FILE")]
    pub commitment_key: PathBuf,
    /// A folder that `forget` wrote: is its report about this data?
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes: these commands give none
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The first model
    pub before: PathBuf,
    /// The second one
    pub after: PathBuf,
    /// Answer yes where nothing differs but tensors of these names and the stamp; * and ? are wildcards. May be given several
    /// times
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes: these commands give none
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ExportFormat {
    /// A CycloneDX 1.6 bill of materials
    Cyclonedx,
    /// The statement of SLSA provenance, unsigned
    Slsa,
    /// The statement of the signature (OpenSSF Model Signing), unsigned
    Oms,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A folder that `forget` wrote
    pub folder: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    pub format: ExportFormat,
}
