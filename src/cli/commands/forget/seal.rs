//! What `forget` adds for those who did not see the run: signature, claims, commitments.

use crate::{
    cli::{
        args::ForgetArgs,
        commands::{output, seal},
    },
    provenance::{
        claims::{Facts, Occasion, SLSA, TEST_RESULT},
        commitment::CommitmentKey,
        keys::PrivateKey,
        oms::{CLAIMS, SIGNATURE},
        random_id,
    },
    report::DataRecord,
};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// What was asked for, read before the work.
pub(super) struct Sealing {
    key: Option<PrivateKey>,
    /// Commitments to the retain sample and to the held-out data.
    committed: Option<(String, Option<String>)>,
    pub request: Option<String>,
    started: String,
}

impl Sealing {
    pub(super) fn prepare(args: &ForgetArgs) -> Result<Self> {
        let asked = &args.provenance;
        let request = asked.request_id.clone();
        if let Some(id) = &request {
            let plain = !id.is_empty() && id.chars().all(|c| !c.is_control());
            ensure!(plain, "--request-id {id:?}: expected some text on one line");
        }
        let key = asked.sign_key.as_deref().map(|path| seal::private_key("--sign-key", path, &args.out)).transpose()?;
        Ok(Self {
            key,
            committed: asked.commitment_key.as_deref().map(|path| committed(path, args)).transpose()?,
            request,
            started: seal::now(),
        })
    }

    pub(super) fn signs(&self) -> bool {
        self.key.is_some()
    }

    /// Types of the claims that belong to the result.
    pub(super) fn claims(&self) -> Vec<&'static str> {
        if self.signs() { vec![SLSA, TEST_RESULT] } else { Vec::new() }
    }

    /// The data as the report shows it: committed to, where there is a key for that.
    pub(super) fn commit(&self, data: &DataRecord) -> DataRecord {
        let mut data = data.clone();
        if let Some((retain, eval)) = self.committed.clone() {
            let eval = data.eval.as_mut().zip(eval);
            for (summary, commitment) in [(&mut data.retain, retain)].into_iter().chain(eval) {
                summary.digest.clear();
                summary.commitment = Some(commitment);
            }
        }
        data
    }

    /// Signs the finished files, which lie in `files` and will lie in `folder`.
    pub(super) fn seal(&self, files: &Path, folder: &Path) -> Result<()> {
        let Some(key) = &self.key else { return Ok(()) };
        let name = seal::name_of(folder);
        let occasion = Occasion {
            invocation: Some(random_id()?),
            started: Some(self.started.clone()),
            finished: Some(seal::now()),
            during: true,
        };
        let claims = seal::claims(&Facts::of(files, &name)?, &occasion, key)?;
        output::write(&files.join(CLAIMS), claims.as_bytes())?;
        output::write(&files.join(SIGNATURE), seal::signature(files, &name, key)?.0.as_bytes())
    }
}

/// Commitments to the data, before the work: what cannot be committed to is said then.
fn committed(key: &Path, args: &ForgetArgs) -> Result<(String, Option<String>)> {
    seal::outside("--commitment-key", key, &args.out)?;
    let key = CommitmentKey::read(key).context("--commitment-key")?;
    let of = |path: &Path| -> Result<String> { Ok(key.commit(&seal::files_of(path)?)?.to_string()) };
    Ok((of(&args.job.retain)?, args.job.eval.as_deref().map(of).transpose()?))
}
