"""Holds what onnx-unlearn signs, claims and exports against other programs, and their signatures against its `verify`.

    python3 tests/interop/interop.py --program target/release/onnx-unlearn --output DIR

DIR is a folder that `onnx-unlearn forget` wrote, not yet signed; it is only read. The other programs, at the versions in
requirements.txt and package.json, are installed below --work (target/interop) at the first run, which needs a network,
Python 3.11 and node 20. `--prepare` only installs them. Prints a line a check; exit 1 when one failed.
"""

import argparse
import base64
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
FOREIGN = HERE.parents[1] / "fixtures/stamps/v1/foreign"
results = []


def check(name, problem):
    """Counts and prints a check; `problem` is empty where it passed."""
    results.append(not problem)
    print(f"FAIL  {name}: {problem}" if problem else f"pass  {name}", flush=True)


def attempt(name, function, *arguments):
    """A check that passes unless it raises."""
    try:
        function(*arguments)
        check(name, "")
    except Exception as error:  # Clients raise what they like.
        check(name, f"{type(error).__name__}: {error}")


def refused(name, why, function, *arguments):
    """A check that passes when the client says no."""
    try:
        function(*arguments)
    except Refused as error:
        return check(name, "" if why in str(error) else f"for another reason: {error}")
    except Exception as error:
        return check(name, f"{type(error).__name__}: {error}")
    check(name, "accepted")


class Refused(Exception):
    """A client said no."""


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


def prepare(work):
    """Installs the clients, unless they are there in the versions asked for."""
    for folder, wanted, install in [
        ("venv", "requirements.txt", lambda at: [
            [sys.executable, "-m", "venv", at],
            [at / "bin/pip", "install", "--quiet", "-r", HERE / "requirements.txt"],
        ]),
        ("npm", "package.json", lambda at: [["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", at]]),
    ]:
        at, mark = work / folder, work / folder / f"installed-{wanted}"
        text = (HERE / wanted).read_text()
        if mark.exists() and mark.read_text() == text:
            continue
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        shutil.copy(HERE / wanted, at)
        for command in install(at):
            subprocess.run([str(part) for part in command], check=True)
        mark.write_text(text)


class Clients:
    """The other programs, with a public key."""

    def __init__(self, work, key):
        self.work, self.key = work, key

    def model_signing(self, folder):
        program = self.work / "venv/bin/model_signing"
        end = run(program, "verify", "key", "--public_key", self.key, "--signature", folder / "model.sig", folder)
        if end.returncode == 1:
            raise Refused(end.stderr.strip().replace("\\'", "'"))
        if end.returncode:
            raise OSError(end.stderr.strip())

    def sigstore(self, bundle, *options):
        end = run("node", HERE / "verify_bundle.cjs", self.key, *options, input=json.dumps(bundle),
                  env=os.environ | {"NODE_PATH": str(self.work / "npm/node_modules")})
        if "VerificationError: signature verification failed" in end.stderr:
            raise Refused("signature verification failed")
        if end.returncode:
            raise OSError(end.stderr.strip())

    def sigstore_models(self, bundle):
        """The parser under model_signing, which takes no field that it does not know."""
        from sigstore_models.bundle.v1 import Bundle
        Bundle.from_json(json.dumps(bundle))

    def securesystemslib(self, bundle):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
        from securesystemslib.signer import SSlibKey
        public = SSlibKey.from_crypto(load_pem_public_key(self.key.read_bytes()), hint(self.key))
        envelope = Envelope.from_dict(json.loads(json.dumps(bundle["dsseEnvelope"])))
        try:
            envelope.verify([public], 1)
        except VerificationError as error:
            raise Refused(str(error)) from error


def hint(key):
    return hashlib.sha256(key.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def payload(bundle):
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def changed(bundle):
    """The bundle with another letter in a string of the payload, which is JSON still."""
    text = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    other = text.replace(b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v2", 1)
    assert other != text
    return bundle | {"dsseEnvelope": bundle["dsseEnvelope"] | {"payload": base64.b64encode(other).decode()}}


def statement(content):
    """Parses a statement, and its predicate where there is a class for it; nothing unknown passes."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
    Statement.copy_from_pb(json_format.ParseDict(content, statement_pb2.Statement())).validate()
    kind, predicate = content["predicateType"], content["predicate"]
    descriptors = []
    if kind == "https://slsa.dev/provenance/v1":
        provenance = json_format.ParseDict(predicate, Provenance())
        built = provenance.build_definition
        assert built.build_type and len(built.external_parameters) and provenance.run_details.builder.id, "a required field"
        descriptors = [*built.resolved_dependencies, *provenance.run_details.byproducts]
    elif kind == "https://in-toto.io/attestation/test-result/v0.1":
        result = json_format.ParseDict(predicate, TestResult())
        assert result.result in ("PASSED", "WARNED", "FAILED"), f"result {result.result!r}"
        assert "configuration" in predicate, "no configuration"
        descriptors = result.configuration
    elif kind == "https://in-toto.io/attestation/svr/v0.2":  # No class knows this one.
        assert predicate["verifier"]["id"] and isinstance(predicate["verifier"]["policies"], list), "verifier"
        assert predicate["timeCreated"].endswith("Z"), "timeCreated"
        assert predicate["properties"] and all(p.startswith("ONNX_UNLEARN_") for p in predicate["properties"]), "properties"
    elif kind != "https://model_signing/signature/v1.0":
        raise ValueError(f"a predicate of unexpected type {kind}")
    for descriptor in descriptors:
        ResourceDescriptor.copy_from_pb(descriptor).validate()


def cyclonedx(text):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise ValueError(f"{error}")


def flip(path, at=None):
    """Changes the lowest bit of a byte, in the middle of the file unless told."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


# What is done to a signed folder; what model_signing says to that; the reasons that `verify` may give for its no, which are
# those of the first check that fails.
TAMPERS = {
    "a byte of the model": (
        lambda d: flip(d / "model.onnx"), "Hash mismatch for 'model.onnx'", {"digest.weights", "signature.file_mismatch"}),
    "a byte of the report": (
        lambda d: flip(d / "unlearn-report.json"), "Hash mismatch for 'unlearn-report.json'",
        {"stamp.inconsistent", "signature.file_mismatch"}),
    "a file more": (
        lambda d: (d / "more.txt").write_text("more"), "Extra files found", {"signature.unlisted_file"}),
    "a file less": (
        lambda d: (d / "unlearn-report.json").unlink(), "Missing files", {"signature.file_mismatch"}),
}


class Output:
    """A folder that is signed, by either side, and checked by both."""

    def __init__(self, program, folder, key, clients):
        self.program, self.folder, self.key, self.clients = program, folder, key, clients

    def copy(self, name):
        at = self.folder.parent / name
        shutil.copytree(self.folder, at)
        return Output(self.program, at, self.key, self.clients)

    def ours(self, *arguments):
        end = run(self.program, *arguments)
        if end.returncode:
            raise RuntimeError(f"exit {end.returncode}: {end.stderr.strip()}")
        return end.stdout

    def sign(self):
        self.ours("sign", self.folder, "--sign-key", self.key)

    def attest(self):
        self.ours("attest", self.folder, "--sign-key", self.key)

    def model_signing_sign(self):
        """Signs as model_signing does, leaving out claims, which come later."""
        end = run(self.clients.work / "venv/bin/model_signing", "sign", "key", "--private_key", self.key,
                  "--ignore-paths", self.folder / "claims.jsonl", "--signature", self.folder / "model.sig", self.folder)
        if end.returncode:
            raise RuntimeError(end.stderr.strip())

    def verify(self, code=0, reasons=("ok",), key=None, *options):
        """Our own verification has to end like this."""
        end = run(self.program, "verify", self.folder / "model.onnx", "--key", key or self.clients.key, "--json", *options)
        report = json.loads(end.stdout) if end.stdout.startswith("{") else {}
        if end.returncode != code or report.get("reason") not in reasons:
            said = [c for c in report.get("checks", []) if c["outcome"] not in ("pass", "skipped")] or end.stderr.strip()
            raise RuntimeError(f"exit {end.returncode} ({report.get('reason')}), expected {code} {sorted(reasons)}: {said}")

    def bundles(self):
        yield "model.sig", json.loads((self.folder / "model.sig").read_text())
        for line in (self.folder / "claims.jsonl").read_text().splitlines():
            bundle = json.loads(line)
            yield payload(bundle)["predicateType"].split("/", 3)[3], bundle


def round_of(curve, program, output, scratch, work):
    """All checks with a key on this curve."""
    key = scratch / "key.pem"
    attempt(f"{curve} keygen", lambda: Output(program, None, None, None).ours("keygen", "--kind", curve, "--out", key))
    clients = Clients(work, scratch / "key.pem.pub")
    signed = Output(program, scratch / "signed", key, clients)
    shutil.copytree(output, signed.folder)
    foreign = signed.copy("foreign")
    attempt(f"{curve} sign", signed.sign)
    attempt(f"{curve} attest", signed.attest)
    attempt(f"{curve} ours, verify", signed.verify)

    attempt(f"{curve} ours, model_signing accepts", clients.model_signing, signed.folder)
    for number, (what, (tamper, why, _)) in enumerate(TAMPERS.items()):
        copy = signed.copy(f"signed-{number}")
        tamper(copy.folder)
        refused(f"{curve} ours, model_signing refuses {what}", why, clients.model_signing, copy.folder)

    # See verify_bundle.cjs. That it is no fault of ours shows below, where the fixture is refused in the same way.
    sha384 = ["--sha384"] if curve == "p384" else []
    sigstore = "@sigstore/bundle with SHA-384" if sha384 else "@sigstore/verify"
    kinds = []
    for kind, bundle in signed.bundles():
        kinds.append(kind)
        attempt(f"{curve} {kind}, sigstore-models parses", clients.sigstore_models, bundle)
        both = [(sigstore, clients.sigstore, *sha384), ("securesystemslib", clients.securesystemslib)]
        for name, client, *options in both:
            attempt(f"{curve} {kind}, {name} accepts", client, bundle, *options)
            refused(f"{curve} {kind}, {name} refuses another payload", "", client, changed(bundle), *options)
        attempt(f"{curve} {kind}, in-toto-attestation parses", statement, payload(bundle))
    expected = ["attestation/test-result/v0.1", "model.sig", "provenance/v1"]
    check(f"{curve} the claims are all there", "" if sorted(kinds) == expected else f"{kinds}")

    attempt(f"{curve} svr, verify writes it", signed.verify, 0, ("ok",), None, "--emit-svr", scratch / "svr.json")
    attempt(f"{curve} svr, in-toto-attestation parses",
            lambda: statement(json.loads((scratch / "svr.json").read_text())))
    attempt(f"{curve} export, cyclonedx-python-lib accepts",
            lambda: cyclonedx(signed.ours("export", signed.folder, "--format", "cyclonedx")))

    attempt(f"{curve} model_signing signs", foreign.model_signing_sign)
    attempt(f"{curve} theirs, verify", foreign.verify)
    for number, (what, (tamper, _, reasons)) in enumerate(TAMPERS.items()):
        copy = foreign.copy(f"foreign-{number}")
        tamper(copy.folder)
        attempt(f"{curve} theirs, verify refuses {what}", copy.verify, 1, reasons)
    attempt(f"{curve} theirs, attest beside it", foreign.attest)
    attempt(f"{curve} theirs with claims, verify", foreign.verify)
    attempt(f"{curve} theirs with claims, model_signing accepts", clients.model_signing, foreign.folder)

    crlf = scratch / "crlf.pub"
    crlf.write_bytes(clients.key.read_bytes().replace(b"\n", b"\r\n"))
    attempt(f"{curve} theirs, verify with a key whose lines end in CRLF", foreign.verify, 0, ("ok",), crlf)
    strange = foreign.copy("foreign-key")
    strange.key, other = scratch / "other.pem", scratch / "other.pem.pub"
    strange.ours("keygen", "--kind", curve, "--out", strange.key)
    attempt(f"{curve} theirs, verify refuses another key", strange.verify, 1, {"signature.wrong_key"}, other)
    damaged = foreign.copy("foreign-payload")
    bundle = next(damaged.bundles())[1]
    (damaged.folder / "model.sig").write_text(json.dumps(changed(bundle)))
    attempt(f"{curve} theirs, verify refuses another payload", damaged.verify, 1, {"signature.invalid"})

    # The specification sorts these two by code points, "." before "/"; model_signing by parts of the path.
    for side, sign in [("ours", Output.sign), ("theirs", Output.model_signing_sign)]:
        deep = Output(program, scratch / f"deep-{side}", key, clients)
        shutil.copytree(output, deep.folder)
        (deep.folder / "notes").mkdir()
        for name in ("notes.txt", "notes/more.txt"):
            (deep.folder / name).write_text(name)
        attempt(f"{curve} {side}, folder in folder, signed", sign, deep)
        attempt(f"{curve} {side}, folder in folder, verify", deep.verify)
        attempt(f"{curve} {side}, folder in folder, model_signing accepts", clients.model_signing, deep.folder)

    kept = FOREIGN / f"model-signing-{curve}"
    clients = Clients(work, kept.with_suffix(".pub"))
    fixture = Output(program, kept, None, clients)
    attempt(f"{curve} fixture, verify", fixture.verify)
    attempt(f"{curve} fixture, model_signing accepts", clients.model_signing, kept)
    bundle = json.loads((kept / "model.sig").read_text())
    attempt(f"{curve} fixture, {sigstore} accepts", clients.sigstore, bundle, *sha384)
    if sha384:
        refused(f"{curve} fixture, @sigstore/verify cannot check it", "", clients.sigstore, bundle)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, help="onnx-unlearn")
    parser.add_argument("--output", type=pathlib.Path, help="a folder that `onnx-unlearn forget` wrote")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/interop"))
    parser.add_argument("--prepare", action="store_true", help="install the other programs, and no more")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(work)
    if arguments.prepare:
        return
    if not (arguments.program and arguments.output):
        parser.error("--program and --output are needed")
    if (arguments.output / "model.sig").exists() or (arguments.output / "claims.jsonl").exists():
        parser.error(f"{arguments.output} is signed already")
    if pathlib.Path(sys.prefix) != work / "venv":
        python = str(work / "venv/bin/python")
        sys.exit(subprocess.run([python, *sys.argv]).returncode)
    for curve in ("p256", "p384"):
        scratch = work / "scratch" / curve
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        round_of(curve, arguments.program.resolve(), arguments.output.resolve(), scratch, work)
    failed = results.count(False)
    print(f"{len(results)} checks, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
