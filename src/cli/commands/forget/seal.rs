//! What `forget` adds for those who did not see the run: signature, claims, commitments.

use crate::{
    cli::{
        args::{ForgetArgs, JobArgs},
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
use anyhow::{Result, ensure};
use std::path::Path;

/// What was asked for, read before the work.
pub(super) struct Sealing<'a> {
    job: &'a JobArgs,
    key: Option<PrivateKey>,
    commitment: Option<CommitmentKey>,
    pub request: Option<String>,
    started: String,
}

impl<'a> Sealing<'a> {
    pub(super) fn prepare(args: &'a ForgetArgs) -> Result<Self> {
        let asked = &args.provenance;
        let request = asked.request_id.clone();
        if let Some(id) = &request {
            let plain = !id.is_empty() && id.chars().all(|c| !c.is_control());
            ensure!(plain, "--request-id {id:?}: expected some text on one line");
        }
        Ok(Self {
            job: &args.job,
            key: asked.sign_key.as_deref().map(PrivateKey::read).transpose()?,
            commitment: asked.commitment_key.as_deref().map(CommitmentKey::read).transpose()?,
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
    pub(super) fn commit(&self, data: &DataRecord) -> Result<DataRecord> {
        let (mut data, job) = (data.clone(), self.job);
        if let Some(key) = &self.commitment {
            let eval = data.eval.as_mut().zip(job.eval.as_deref());
            for (summary, path) in [(&mut data.retain, job.retain.as_path())].into_iter().chain(eval) {
                summary.digest.clear();
                summary.commitment = Some(key.commit(&seal::files_of(path)?)?.to_string());
            }
        }
        Ok(data)
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
        output::write(&files.join(SIGNATURE), seal::signature(files, &name, key)?.as_bytes())
    }
}
