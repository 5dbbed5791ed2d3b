// node verify_bundle.cjs KEY.pub [--sha384] < bundle: verifies a sigstore bundle with @sigstore/verify, offline, under one
// public key. @sigstore/verify 3.1.1 hashes every envelope with SHA-256, and so cannot check one that is signed on P-384:
// with --sha384 it reads the bundle and says what is signed, and node's own crypto checks the signature of that.
const { createHash, createPublicKey, verify } = require('crypto');
const { readFileSync } = require('fs');
const { isDeepStrictEqual } = require('util');
const { bundleFromJSON, bundleToJSON } = require('@sigstore/bundle');
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');

const publicKey = createPublicKey(readFileSync(process.argv[2]));
const hint = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'pem' })).digest('hex');
const json = JSON.parse(readFileSync(0, 'utf8'));
const bundle = bundleFromJSON(json);

// The parser steps over fields that it does not know, and leaves out empty ones when it writes.
const full = (value) => {
  const { tlogEntries = [], ...material } = value.verificationMaterial;
  const signatures = value.dsseEnvelope.signatures.map(({ keyid = '', ...rest }) => ({ keyid, ...rest }));
  const dsseEnvelope = { ...value.dsseEnvelope, signatures };
  return { ...value, verificationMaterial: { ...material, tlogEntries }, dsseEnvelope };
};
if (!isDeepStrictEqual(full(json), full(bundleToJSON(bundle)))) {
  throw new Error('the bundle has fields that the format does not have');
}

const none = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const find = (wanted) => {
  if (wanted !== hint) throw new Error(`the bundle names the key ${wanted}`);
  return { publicKey, validFor: () => true };
};
const verifier = new Verifier(toTrustMaterial(none, find), { ctlogThreshold: 0, tlogThreshold: 0, timestampThreshold: 0 });
const entity = toSignedEntity(bundle);
if (process.argv[3] !== '--sha384') {
  verifier.verify(entity);
} else {
  find(entity.key.hint);
  const { preAuthEncoding, signature } = entity.signature;
  if (!verify('sha384', preAuthEncoding, publicKey, signature)) {
    throw new Error('VerificationError: signature verification failed');
  }
}
