"""onnx-content-v1 a second time: digests and stamp of ONNX models.

Written from the text of docs/stamp-format.md alone (sections 1, 2, 3 and 4
steps 1 to 3), without a look at the program or at any other implementation, so
that two readings of the specification can be compared. It needs nothing but
Python's standard library: the protobuf wire format is read by hand.

    python3 tests/second/onnx_content_v1.py FILE...

prints one JSON object a line, in the order of the arguments: the digests
`sha256` (of the file), `weights`, `graph` and `model`, and `stamp`, which is
`absent`, `ok` or a reason code of section 4; or `refused` with the reason.
The exit code is 0 when no file was refused, else 2.
"""

import hashlib
import json
import os
import re
import stat
import struct
import sys
from decimal import Decimal


class Refused(Exception):
    """No digest exists (section 2.7)."""


def require(condition, reason):
    if not condition:
        raise Refused(reason)


# Section 1: notation. Strings are kept as their UTF-8 bytes throughout.

u8, u32, i32, i64, u64 = (struct.Struct("<" + code).pack for code in "BIiqQ")


def H(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def lp(x):
    return u64(len(x)) + x


def items(parts):
    """`list(...)` of the specification."""
    parts = list(parts)
    return u32(len(parts)) + b"".join(parts)


def dom(d):
    return b"" if d == b"ai.onnx" else d


def printed(digest):
    return "sha256:" + digest.hex()


# The messages of onnx.proto, IR version 14: number, name, type; `*` is
# repeated, `|` a member of the message's oneof. `refused` are the fields whose
# presence alone refuses the model, so that what is in them is not described.

METADATA = "metadata_props Entry*"
MESSAGES = {
    "Model": f"""1 ir_version int64, 2 producer_name string, 3 producer_version string, 4 domain string,
        5 model_version int64, 6 doc_string string, 7 graph Graph, 8 opset_import OperatorSetId*,
        14 {METADATA}, 20 training_info refused, 25 functions Function*, 26 configuration refused""",
    "Graph": f"""1 node Node*, 2 name string, 5 initializer Tensor*, 10 doc_string string,
        11 input ValueInfo*, 12 output ValueInfo*, 13 value_info ValueInfo*,
        14 quantization_annotation Annotation*, 15 sparse_initializer SparseTensor*, 16 {METADATA}""",
    "Node": f"""1 input string*, 2 output string*, 3 name string, 4 op_type string, 5 attribute Attribute*,
        6 doc_string string, 7 domain string, 8 overload string, 9 {METADATA},
        10 device_configurations refused""",
    "Function": f"""1 name string, 4 input string*, 5 output string*, 6 attribute string*, 7 node Node*,
        8 doc_string string, 9 opset_import OperatorSetId*, 10 domain string,
        11 attribute_proto Attribute*, 12 value_info ValueInfo*, 13 overload string, 14 {METADATA}""",
    "Attribute": """1 name string, 2 f float, 3 i int64, 4 s bytes, 5 t Tensor, 6 g Graph, 7 floats float*,
        8 ints int64*, 9 strings bytes*, 10 tensors Tensor*, 11 graphs Graph*, 13 doc_string string,
        14 tp Type, 15 type_protos Type*, 20 type int32, 21 ref_attr_name string,
        22 sparse_tensor SparseTensor, 23 sparse_tensors SparseTensor*""",
    "Tensor": f"""1 dims int64*, 2 data_type int32, 3 segment refused, 4 float_data float*,
        5 int32_data int32*, 6 string_data bytes*, 7 int64_data int64*, 8 name string, 9 raw_data bytes,
        10 double_data double*, 11 uint64_data uint64*, 12 doc_string string, 13 external_data Entry*,
        14 data_location int32, 16 {METADATA}""",
    "SparseTensor": "1 values Tensor, 2 indices Tensor, 3 dims int64*",
    "ValueInfo": f"1 name string, 2 type Type, 3 doc_string string, 4 {METADATA}",
    "Annotation": "1 tensor_name string, 2 quant_parameter_tensor_names Entry*",
    "Entry": "1 key string, 2 value string",
    "OperatorSetId": "1 domain string, 2 version int64",
    "Type": """1 tensor_type TensorType|, 4 sequence_type WrappedType|, 5 map_type MapType|,
        6 denotation string, 7 opaque_type OpaqueType|, 8 sparse_tensor_type TensorType|,
        9 optional_type WrappedType|""",
    "TensorType": "1 elem_type int32, 2 shape Shape",
    "WrappedType": "1 elem_type Type",
    "MapType": "1 key_type int32, 2 value_type Type",
    "OpaqueType": "1 domain string, 2 name string",
    "Shape": "1 dim Dimension*",
    "Dimension": "1 dim_value int64|, 2 dim_param string|, 3 denotation string",
}
FIELDS = {
    message: {
        int(number): (name, kind.rstrip("*|"), kind.endswith("*"), kind.endswith("|"))
        for number, name, kind in (field.split() for field in table.split(","))
    }
    for message, table in MESSAGES.items()
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIRE_TYPE = {"int64": VARINT, "int32": VARINT, "uint64": VARINT, "double": FIXED64, "float": FIXED32}
WIDTH = {FIXED64: 8, FIXED32: 4}
DEFAULT = {"int64": 0, "int32": 0, "float": bytes(4), "string": b"", "bytes": b""}


class Message:
    """Fields by name; `given` are the names of those that have a value. FLOAT
    and DOUBLE stay the bytes they are, in a repeated field one after the other."""

    def __init__(self, message):
        self.given = set()
        for name, kind, repeated, _ in FIELDS[message].values():
            empty = bytearray() if kind in ("float", "double") else []
            setattr(self, name, empty if repeated else DEFAULT.get(kind))


def varint(buf, pos, end):
    value = 0
    for shift in range(0, 70, 7):
        require(pos < end, "cut off in a varint")
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            require(value < 1 << 64, "a varint over 64 bits")
            return value, pos
    raise Refused("a varint over 64 bits")


def integer(kind, value):
    if kind == "uint64":
        return value
    value -= value >> 63 << 64
    require(kind == "int64" or -(1 << 31) <= value < 1 << 31, "an int32 out of range")
    return value


def is_utf8(text):
    try:
        return text.decode() is not None
    except UnicodeDecodeError:
        return False


def parse(message, buf, pos, end, depth=0, step_over_unknown=False):
    require(depth <= 100, "messages nested more than 100 deep")
    result = Message(message)
    while pos < end:
        tag, pos = varint(buf, pos, end)
        field, wire = tag >> 3, tag & 7
        # Field numbers of protobuf have 29 bits.
        require(0 < field < 1 << 29, f"field number {field}")
        require(wire in (VARINT, FIXED64, BYTES, FIXED32), "a group or an unknown wire type")
        if wire == VARINT:
            value, pos = varint(buf, pos, end)
        else:
            size, start = varint(buf, pos, end) if wire == BYTES else (WIDTH[wire], pos)
            pos = start + size
            require(pos <= end, "cut off in a field")
        if field not in FIELDS[message]:
            require(step_over_unknown, f"unknown field {field} of {message}")
            continue

        name, kind, repeated, in_oneof = FIELDS[message][field]
        what = f"{name} of {message}"
        require(kind != "refused", what)
        want = WIRE_TYPE.get(kind, BYTES)
        packed = repeated and wire == BYTES and want != BYTES
        require(wire == want or packed, f"{what} with wire type {wire}")
        if packed and size == 0:
            continue
        require(repeated or name not in result.given, f"{what} twice")
        if in_oneof:
            others = {other for other, *_, in_it in FIELDS[message].values() if in_it}
            require(not others & result.given, f"two members of the oneof of {message}")
        result.given.add(name)

        if want == VARINT:
            values = [] if packed else [integer(kind, value)]
            while packed and start < pos:
                value, start = varint(buf, start, pos)
                values.append(integer(kind, value))
        elif want in WIDTH:
            require((pos - start) % WIDTH[want] == 0, f"{what} is cut off")
            values = buf[start:pos]
        elif kind in FIELDS:
            values = [parse(kind, buf, start, pos, depth + 1, name == "metadata_props")]
        else:
            values = [buf[start:pos]]
            require(kind != "string" or is_utf8(values[0]), f"{what} is not UTF-8")
        if repeated:
            getattr(result, name).extend(values)
        else:
            setattr(result, name, values if want in WIDTH else values[0])
    keys = [entry.key for entry in getattr(result, "metadata_props", ())]
    require(len(keys) == len(set(keys)), f"one metadata key of {message} twice")
    return result


# Sections 2.1 and 2.2: tensors.

STRING, BOOL, UINT32 = 8, 9, 12
BITS = {data_type: bits for bits, data_types in {
    8: (2, 3, BOOL, 17, 18, 19, 20, 24), 16: (4, 5, 10, 16), 32: (1, 6, UINT32),
    64: (7, 11, 13, 14), 128: (15,), 4: (21, 22, 23), 2: (25, 26), 6: (27, 28),
}.items() for data_type in data_types}
STORAGE = {1: "float_data", 14: "float_data", 11: "double_data", 15: "double_data",
           7: "int64_data", UINT32: "uint64_data", 13: "uint64_data", STRING: "string_data"}
STORAGES = {"raw_data", "external_data", "int32_data", *STORAGE.values()}


def external_data(tensor, directory):
    entries = {entry.key: entry.value for entry in tensor.external_data}
    require(len(entries) == len(tensor.external_data), "an external key twice")
    require(entries.keys() <= {b"location", b"offset", b"length", b"checksum"}, "an external key")
    location, numbers = entries.get(b"location", b""), {b"offset": 0}
    for key in entries.keys() & {b"offset", b"length"}:
        require(re.fullmatch(b"[0-9]+", entries[key]), "no decimal number")
        # 20 digits are more than any file has bytes; int() balks at thousands.
        numbers[key] = int(entries[key].lstrip(b"0")[:20] or b"0")
    require(not location.startswith(b"/"), "an absolute external location")
    parts = [part for part in location.split(b"/") if part not in (b"", b".")]
    require(parts and b".." not in parts and not any(bad in location for bad in (b"\\", b"\0")),
            "an external location without a component or with `..`, a backslash or a NUL")
    try:
        path = os.fsencode(directory)
        for part in parts:
            path = os.path.join(path, part)
            require(not stat.S_ISLNK(os.lstat(path).st_mode), "an external symbolic link")
        status = os.lstat(path)
        require(stat.S_ISREG(status.st_mode), "external data in no regular file")
        require(status.st_nlink == 1, "external data with several hard links")
        offset = numbers[b"offset"]
        size = numbers.get(b"length", status.st_size - offset)
        require(size >= 0 and offset + size <= status.st_size, "external data that is too short")
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise Refused(f"external data: {error.strerror}") from None


def from_int32_data(entries, n, bits):
    require(len(entries) == -(-n // {4: 2, 2: 4}.get(bits, 1)), "a wrong number of int32_data entries")
    width = 8 if bits in (4, 2) else bits
    require(-(1 << width - 1) <= min(entries) and max(entries) < 1 << width, "an entry out of range")
    values = [entry & (1 << width) - 1 for entry in entries]
    if width != 6:
        return struct.pack(f"<{len(values)}" + {8: "B", 16: "H", 32: "I"}[width], *values)
    values += [0] * (-n % 4)
    fours = zip(values[0::4], values[1::4], values[2::4], values[3::4])
    data = b"".join((a | b << 6 | c << 12 | d << 18).to_bytes(3, "little") for a, b, c, d in fours)
    return data[: (n * 6 + 7) // 8]


def product(dims):
    require(min(dims, default=0) >= 0, "a negative dim")
    # Thousands of dims would make a number that takes long, one 0 takes it away.
    n = 0 if 0 in dims else 1
    for dim in dims:
        n *= dim
        require(n < 1 << 64, "more elements than 64 bits can count")
    return n


def tensor_data(tensor, directory):
    n = product(tensor.dims)
    require(1 <= tensor.data_type <= 28, f"data_type {tensor.data_type}")
    require(tensor.data_location in (0, 1), f"data_location {tensor.data_location}")
    require((tensor.data_location == 1) == bool(tensor.external_data),
            "data_location EXTERNAL without entries, or entries without it")
    storages = [name for name in STORAGES if getattr(tensor, name)]
    require(len(storages) <= 1, "two storages in a tensor")
    require(storages or n == 0, "a tensor without data")
    if not storages:
        return b""
    storage, typed = storages[0], STORAGE.get(tensor.data_type, "int32_data")
    require(storage == typed or storage in ("raw_data", "external_data") and tensor.data_type != STRING,
            "a storage that is not for the type")
    data, bits = getattr(tensor, storage), BITS.get(tensor.data_type)
    if storage == "string_data":
        require(len(data) == n, "a wrong number of strings")
        return b"".join(map(lp, data))
    if storage == "external_data":
        data = external_data(tensor, directory)
    elif storage == "int32_data":
        data = from_int32_data(data, n, bits)
    elif storage in ("int64_data", "uint64_data"):
        code = "q" if storage == "int64_data" else "Q"
        if tensor.data_type == UINT32:
            require(max(data) < 1 << 32, "an entry out of range")
            code = "I"
        data = struct.pack(f"<{len(data)}{code}", *data)
    require(len(data) == (n * bits + 7) // 8, "a wrong number of bytes in a tensor")
    if n * bits % 8:
        data = data[:-1] + u8(data[-1] & (1 << n * bits % 8) - 1)
    require(tensor.data_type != BOOL or max(data, default=0) <= 1, "a BOOL that is neither 0 nor 1")
    return data


def tensor_of(data_type, dims, data):
    return H(lp(b"onnx-tensor-v1"), i32(data_type), items(map(i64, dims)), u64(len(data)), data)


def tensor_digest(tensor, directory):
    return tensor_of(tensor.data_type, tensor.dims, tensor_data(tensor, directory))


def sparse_digest(sparse, directory):
    require(sparse.values and sparse.indices, "a sparse tensor without values or indices")
    product(sparse.dims)
    return H(lp(b"onnx-sparse-v1"), items(map(i64, sparse.dims)),
             tensor_digest(sparse.values, directory), tensor_digest(sparse.indices, directory))


# Sections 2.3 to 2.5: weights and graph. Attribute types by number: the field
# of the value, that of one value of a list, the name on a Constant of 2.3.

ATTRIBUTES = {
    1: ("f", "f", b"value_float"), 6: ("floats", "f", b"value_floats"),
    2: ("i", "i", b"value_int"), 7: ("ints", "i", b"value_ints"),
    3: ("s", "s", b"value_string"), 8: ("strings", "s", b"value_strings"),
    4: ("t", "t", b"value"), 9: ("tensors", "t", None),
    11: ("sparse_tensor", "sparse_tensor", b"sparse_value"),
    12: ("sparse_tensors", "sparse_tensor", None),
    5: ("g", "g", None), 10: ("graphs", "g", None),
    13: ("tp", "tp", None), 14: ("type_protos", "tp", None),
}
VALUES = {field for field, _, _ in ATTRIBUTES.values()}
TYPES = {1: "tensor_type", 4: "sequence_type", 5: "map_type", 7: "opaque_type",
         8: "sparse_tensor_type", 9: "optional_type"}


def check_attributes(attributes):
    names = {attribute.name for attribute in attributes}
    require(len(names) == len(attributes), "one attribute name twice")
    for attribute in attributes:
        require(attribute.type in ATTRIBUTES, f"attribute type {attribute.type}")
        field, given = ATTRIBUTES[attribute.type][0], attribute.given & VALUES
        if attribute.ref_attr_name:
            require(not given, "a reference that sets a value")
            continue
        require(given <= {field}, "an attribute that sets a field of another type")
        require(given or field not in ("t", "sparse_tensor", "g", "tp"), "an attribute without its message")


def encoded_type(value):
    for tag, name in TYPES.items():
        member = getattr(value, name, None)
        if member is None:
            continue
        if tag in (1, 8):
            return u8(tag) + i32(member.elem_type) + shape(member.shape)
        if tag == 5:
            return u8(tag) + i32(member.key_type) + encoded_type(member.value_type)
        if tag == 7:
            return u8(tag) + lp(member.domain) + lp(member.name)
        return u8(tag) + encoded_type(member.elem_type)
    return u8(0)


def shape(value):
    return u8(0) if value is None else u8(1) + items(map(dimension, value.dim))


def dimension(dim):
    if "dim_value" in dim.given:
        return u8(1) + i64(dim.dim_value)
    return u8(2) + lp(dim.dim_param) if dim.dim_param else u8(0)


class Scope:
    """The main graph or one function, with all that is nested in it: the root
    of its paths and the domains of its encoded nodes."""

    def __init__(self, root, directory, weights):
        self.root, self.directory, self.weights = root, directory, weights
        self.domains = set()

    def add_weight(self, steps, name, digest):
        key = self.root + items(steps) + lp(name)
        require(key not in self.weights, "two weights with one key")
        self.weights[key] = digest

    def constant(self, node):
        """The digest of a Constant that is a weight, None for any other node."""
        if (node.op_type != b"Constant" or dom(node.domain) or node.overload or node.input
                or len(node.output) != 1 or not node.output[0] or len(node.attribute) != 1):
            return None
        attribute = node.attribute[0]
        field, one, name = ATTRIBUTES[attribute.type]
        if attribute.ref_attr_name or attribute.name != name:
            return None
        value, listed = getattr(attribute, field), field != one
        if one == "t":
            return tensor_digest(value, self.directory)
        if one == "sparse_tensor":
            return sparse_digest(value, self.directory)
        dims = [len(value) // (4 if one == "f" else 1)] if listed else []
        if one != "f":
            value = b"".join(map(i64 if one == "i" else lp, value if listed else [value]))
        return tensor_of({"f": 1, "i": 7, "s": STRING}[one], dims, value)

    def payload(self, attribute, output, steps):
        field, one, _ = ATTRIBUTES[attribute.type]
        value = getattr(attribute, field)
        if field == "floats":
            return u32(len(value) // 4) + value
        values = [value] if field == one else value
        if one == "g":
            require(output or not values, "a nested graph on a node without named output")
            step = lp(output) + lp(attribute.name)
            encoded = [self.body(graph, steps + [step + u32(index)]) for index, graph in enumerate(values)]
        else:
            encode = {
                "f": bytes, "i": i64, "s": lp, "tp": encoded_type,
                "t": lambda tensor: tensor_digest(tensor, self.directory),
                "sparse_tensor": lambda sparse: sparse_digest(sparse, self.directory),
            }[one]
            encoded = [encode(value) for value in values]
        return encoded[0] if field == one else items(encoded)

    def attributes(self, attributes, output=b"", steps=()):
        encoded = []
        for attribute in sorted(attributes, key=lambda attribute: attribute.name):
            if attribute.ref_attr_name:
                value = u8(1) + lp(attribute.ref_attr_name)
            else:
                value = u8(0) + self.payload(attribute, output, steps)
            encoded.append(lp(attribute.name) + i32(attribute.type) + value)
        return items(encoded)

    def nodes(self, nodes, steps, defined):
        """`defined`: the value names that the graph or function has so far."""
        encoded = []
        for node in nodes:
            named = [output for output in node.output if output]
            for output in named:
                require(output not in defined, "a value name defined twice")
                defined.add(output)
            check_attributes(node.attribute)
            weight = self.constant(node)
            if weight is not None:
                self.add_weight(steps, named[0], weight)
                continue
            self.domains.add(dom(node.domain))
            encoded.append(
                lp(dom(node.domain)) + lp(node.op_type) + lp(node.overload)
                + items(map(lp, node.input)) + items(map(lp, node.output))
                + self.attributes(node.attribute, named[0] if named else b"", steps))
        return items(encoded)

    def body(self, graph, steps):
        defined = {value.name for value in graph.input}
        require(len(defined) == len(graph.input), "a value name defined twice")
        for tensor in graph.initializer:
            self.add_weight(steps, tensor.name, tensor_digest(tensor, self.directory))
            defined.add(tensor.name)
        for sparse in graph.sparse_initializer:
            digest = sparse_digest(sparse, self.directory)
            self.add_weight(steps, sparse.values.name, digest)
            defined.add(sparse.values.name)
        annotations = [
            lp(annotation.tensor_name) + items(sorted(
                lp(entry.key) + lp(entry.value) for entry in annotation.quant_parameter_tensor_names))
            for annotation in graph.quantization_annotation]
        return (items(lp(value.name) + encoded_type(value.type) for value in graph.input)
                + items(lp(value.name) + encoded_type(value.type) for value in graph.output)
                + self.nodes(graph.node, steps, defined) + items(sorted(annotations)))

    def opsets(self, imports):
        encoded = []
        for domain in sorted(self.domains):
            versions = {entry.version for entry in imports if dom(entry.domain) == domain}
            require(len(versions) == 1, "a used domain without import, or with two versions")
            encoded.append(lp(domain) + i64(versions.pop()))
        return items(encoded)


def encoded_function(function, key, directory, weights):
    scope = Scope(u8(1) + key, directory, weights)
    defined, defaults = set(function.input), function.attribute_proto
    require(len(defined) == len(function.input), "a value name defined twice")
    check_attributes(defaults)
    # GRAPH is 5, GRAPHS is 10.
    require(not any(default.type in (5, 10) and not default.ref_attr_name for default in defaults),
            "a graph as default of a function attribute")
    nodes = scope.nodes(function.node, [], defined)
    return (key + items(map(lp, function.input)) + items(map(lp, function.output))
            + items(sorted(map(lp, function.attribute))) + scope.attributes(defaults)
            + scope.opsets(function.opset_import) + nodes)


def digests(model, directory):
    """The digests `weights` and `graph`."""
    require(model.graph, "no graph")
    weights, functions = {}, {}
    scope = Scope(u8(0), directory, weights)
    body = scope.body(model.graph, [])
    for function in model.functions:
        key = lp(dom(function.domain)) + lp(function.name) + lp(function.overload)
        require(key not in functions, "two functions with one key")
        functions[key] = encoded_function(function, key, directory, weights)
    graph = H(lp(b"onnx-graph-v1"), scope.opsets(model.opset_import), body,
              items(functions[key] for key in sorted(functions)))
    return H(lp(b"onnx-weights-v1"), items(key + weights[key] for key in sorted(weights))), graph


def model_of(graph, weights):
    return printed(H(lp(b"onnx-model-v1"), graph, weights))


# Sections 3 and 4: the stamp.


def canonical_number(x):
    """A double as ECMAScript prints it, which RFC 8785 asks for."""
    if x == 0:
        return "0"
    _, digits, exponent = Decimal(repr(abs(x))).normalize().as_tuple()
    point, digits = len(digits) + exponent, "".join(map(str, digits))
    if not -6 < point <= 21:
        text = digits[0] + ("." + digits[1:]).rstrip(".") + f"e{point - 1:+d}"
    elif point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = (digits[:point].ljust(point, "0") + "." + digits[point:]).rstrip(".")
    return "-" * (x < 0) + text


def canonical(value):
    """RFC 8785; keys are ordered by their UTF-16 code units."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(canonical(key) + ":" + canonical(value[key]) for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return canonical_number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def unique(pairs):
    # An object with one key twice has no canonical form.
    if len(dict(pairs)) != len(pairs):
        raise ValueError("one key twice")
    return dict(pairs)


def double(text):
    # Every number is a double to RFC 8785; NaN and infinities are no JSON.
    value = float(text)
    if value - value != 0:
        raise ValueError("no number of JSON")
    return value


STRING_FORM, DIGEST_FORM = ".*", "sha256:[0-9a-f]{64}"
STAMP = {
    **dict.fromkeys(("content", "method", "report", "tool"), STRING_FORM),
    **dict.fromkeys(("weights", "graph", "params"), DIGEST_FORM),
    "source": dict.fromkeys(("file", "weights", "graph"), DIGEST_FORM),
    "forget": [STRING_FORM],
}
STAMP_OPTIONAL = {"forgotten_before": [STRING_FORM], "output": STRING_FORM, "request": STRING_FORM,
                  "history": [DIGEST_FORM]}


def has_form(value, form):
    if isinstance(form, dict):
        return isinstance(value, dict) and all(has_form(value.get(name), form[name]) for name in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(item, form[0]) for item in value)
    return isinstance(value, str) and re.fullmatch(form, value, re.DOTALL) is not None


def stamp_verdict(model, weights, graph):
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    text = metadata.get(b"dev.onnx-unlearn.stamp.v1")
    if text is None:
        return "absent"
    try:
        stamp = json.loads(text.decode(), parse_int=double, parse_float=double,
                           parse_constant=double, object_pairs_hook=unique)
        whole = canonical(stamp).encode()
    except (ValueError, RecursionError):
        return "stamp.malformed"
    if not isinstance(stamp, dict):
        return "stamp.malformed"
    rest = {key: value for key, value in stamp.items() if key != "self"}
    if stamp.get("self") != printed(H(canonical(rest).encode())):
        return "stamp.inconsistent"
    # A field that is not of the form of section 3 is as good as missing.
    optional = {name: form for name, form in STAMP_OPTIONAL.items() if name in stamp}
    if whole != text or not isinstance(stamp.get("content"), str):
        return "stamp.malformed"
    if stamp["content"] != "onnx-content-v1":
        return "stamp.unsupported"
    if not has_form(stamp, STAMP | optional):
        return "stamp.malformed"
    declared = model_of(*(bytes.fromhex(stamp[name][len("sha256:"):]) for name in ("graph", "weights")))
    if metadata.get(b"dev.onnx-unlearn.digest") != declared.encode():
        return "stamp.inconsistent"
    if stamp["weights"] != printed(weights):
        return "digest.weights"
    return "ok" if stamp["graph"] == printed(graph) else "digest.graph"


def describe(path):
    try:
        with open(path, "rb") as file:
            buf = file.read()
        model = parse("Model", buf, 0, len(buf))
        weights, graph = digests(model, os.path.dirname(path) or ".")
    except (Refused, OSError) as reason:
        return {"file": path, "refused": str(reason)}
    return {"file": path, "sha256": printed(H(buf)), "weights": printed(weights), "graph": printed(graph),
            "model": model_of(graph, weights), "stamp": stamp_verdict(model, weights, graph)}


def main(paths):
    refused = False
    for path in paths:
        result = describe(path)
        refused |= "refused" in result
        print(json.dumps(result), flush=True)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
