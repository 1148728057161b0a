"""The AIP rules that docs/adr/0024 keeps and buf has not, over the descriptors of the protos.

The names of the rules are those of api-linter. What is not kept stands in a table here with the fields it concerns, so
that one more is red.
"""

import re
from typing import Any

import pytest

from tests.protos.annotations import (
    FIELDS,
    FILES,
    FOLDER,
    MESSAGES,
    METHODS,
    RESOURCES,
    behaviors,
    fields_of_requests,
    messages_in_requests,
    reference_of,
    resource_of,
)

NAMES = {kind.rpartition("/")[2]: kind for kind in RESOURCES}
"""Types by the resource's short name."""
PLURALS = {name: resource_of(RESOURCES[kind]).plural.capitalize() for name, kind in NAMES.items()}
PREPOSITIONS = set(
    re.findall(
        r"\w+",
        "after at before between but by except for from in including into of over since to toward under upon with "
        "within without",
    )
)
RESERVED = set(
    re.findall(
        r"\w+",
        "abstract and arguments as assert async await boolean break byte case catch char class const continue crate "
        "debugger def default del delete do double elif else enum eval except export extends false final finally float "
        "for from function global goto if implements import in instanceof int interface is lambda let long native new "
        "nonlocal not null or package pass private protected public raise return self short static strictfp super "
        "switch synchronized this throw throws transient true try typeof var void volatile while with yield",
    )
)
TIME_UNITS = set(
    re.findall(
        r"\w+",
        "date datetime days duration hours minutes ms msec msecs millis nanos ns nsec nsecs sec secs seconds time "
        "timestamp us usec usecs",
    )
)
FORBIDDEN_TYPES = ("uint32", "uint64", "fixed32", "fixed64", "sfixed32", "sfixed64", "float", "double")

WITH_PREPOSITIONS = {
    "WatchRequest.from_revision",
    "ListEventsRequest.from_revision",
    "Event.instance_after",
    "Correction.before",
    "Correction.after",
}
TIME_WITHOUT_SUFFIX = {"Event.time"}
STATE_THAT_IS_SET = {"Instance.state"}
TOP_LEVEL = {"Fleet"}
WITH_CHILDREN = {"Fleet"}
RESOURCE_OPTIONAL_IN_CREATE = {"Fleet"}
PAGES_THAT_ARE_NO_LIST = {"DescribeResponse"}

each_resource = pytest.mark.parametrize("name", NAMES)
with_standard_methods = pytest.mark.parametrize("name", ["Fleet", "Instance"])


def fields(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = message.fields_by_name
    return found


def type_name(field: Any) -> str:
    """`string`, or a message's full name."""
    scalars: dict[int, str] = {
        getattr(field, word): word.removeprefix("TYPE_").lower() for word in dir(field) if word.startswith("TYPE_")
    }
    return str(field.message_type.full_name) if field.message_type is not None else scalars[field.type]


def assert_reference(field: Any, *, to: str = "", child: str = "") -> None:
    assert type_name(field) == "string"
    assert behaviors(field) == {"REQUIRED"}
    reference = reference_of(field)
    assert reference is not None
    assert (reference.type, reference.child_type) == (to, child)


# 121 to 124: resources and their names.


def test_0121_every_resource_can_be_got_and_listed() -> None:
    for name, plural in PLURALS.items():
        assert {f"Get{name}", f"List{plural}"} <= set(METHODS)


@each_resource
def test_0123_a_resource_says_its_type_pattern_and_words(name: str) -> None:
    message = RESOURCES[NAMES[name]]
    resource = resource_of(message)
    (pattern,) = resource.pattern

    assert resource.type == f"blockyard.dev/{message.name}"
    assert resource.singular == message.name.lower()
    assert resource.plural == f"{resource.singular}s"
    assert re.fullmatch(r"([a-z]+/\{[a-z]+\})(/[a-z]+/\{[a-z]+\})*", pattern)
    assert pattern.endswith(f"{resource.plural}/{{{resource.singular}}}")
    assert type_name(fields(message)["name"]) == "string"


def test_0123_every_message_with_a_name_that_is_no_request_is_a_resource() -> None:
    named = {name for name, message in MESSAGES.items() if "name" in fields(message) and not name.endswith("Request")}

    assert named == set(NAMES)


def test_0122_a_resource_does_not_hold_another() -> None:
    for message in RESOURCES.values():
        assert not {f.name for f in message.fields if f.message_type and resource_of(f.message_type) is not None}


def test_0124_a_reference_is_to_a_resource_that_exists_and_is_a_string() -> None:
    references = {name: reference_of(field) for name, field in FIELDS.items() if reference_of(field) is not None}

    assert references
    for name, reference in references.items():
        assert (reference.type or reference.child_type) in RESOURCES, name
        assert type_name(FIELDS[name]) == "string", name


# 131 to 136: methods.


@each_resource
def test_0131_get_takes_a_name_and_answers_the_resource(name: str) -> None:
    method = METHODS[f"Get{name}"]

    assert method.output_type is RESOURCES[NAMES[name]]
    assert set(fields(method.input_type)) == {"name"}
    assert_reference(fields(method.input_type)["name"], to=NAMES[name])


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("List")])
def test_0132_and_0158_list_has_a_parent_and_pages(method: str) -> None:
    request, response = METHODS[method].input_type, METHODS[method].output_type
    of = next((name for name, plural in PLURALS.items() if method == f"List{plural}"), None)
    first = response.fields[0]

    if of in TOP_LEVEL:
        assert "parent" not in fields(request)
    elif of is None:  # events have no names of their own
        assert_reference(fields(request)["parent"], to=NAMES["Fleet"])
    else:
        assert_reference(fields(request)["parent"], child=NAMES[of])
    assert {"page_size": "int32", "page_token": "string"}.items() <= {
        name: type_name(field) for name, field in fields(request).items()
    }.items()
    assert all(behaviors(fields(request)[name]) == {"OPTIONAL"} for name in ("page_size", "page_token"))
    assert (first.number, first.is_repeated) == (1, True)
    assert first.name == method.removeprefix("List").lower()
    assert type_name(fields(response)["next_page_token"]) == "string"
    assert "skip" not in fields(request)


def test_0158_whatever_has_pages_has_all_of_their_fields() -> None:
    for method in METHODS.values():
        request, response = set(fields(method.input_type)), set(fields(method.output_type))
        assert ("page_size" in request) == ("page_token" in request) == ("next_page_token" in response), method.name

    paged = {method.output_type.name for method in METHODS.values() if "page_size" in fields(method.input_type)}
    assert {name for name in paged if not MESSAGES[name].fields[0].is_repeated} == PAGES_THAT_ARE_NO_LIST


@with_standard_methods
def test_0133_create_takes_a_parent_an_id_and_the_resource(name: str) -> None:
    method, word = METHODS[f"Create{name}"], name.lower()
    request = fields(method.input_type)

    assert method.output_type is RESOURCES[NAMES[name]]
    assert set(request) == {word, f"{word}_id"} | (set() if name in TOP_LEVEL else {"parent"})
    assert type_name(request[f"{word}_id"]) == "string"
    assert request[word].message_type is RESOURCES[NAMES[name]]
    assert behaviors(request[word]) == {"OPTIONAL" if name in RESOURCE_OPTIONAL_IN_CREATE else "REQUIRED"}
    if name not in TOP_LEVEL:
        assert_reference(request["parent"], child=NAMES[name])


@with_standard_methods
def test_0134_update_takes_the_resource_and_a_mask(name: str) -> None:
    method = METHODS[f"Update{name}"]
    request = fields(method.input_type)

    assert method.output_type is RESOURCES[NAMES[name]]
    assert set(request) == {name.lower(), "update_mask"}
    assert request[name.lower()].message_type is RESOURCES[NAMES[name]]
    assert behaviors(request[name.lower()]) == {"REQUIRED"}
    assert type_name(request["update_mask"]) == "google.protobuf.FieldMask"
    assert behaviors(request["update_mask"]) == {"OPTIONAL"}


@with_standard_methods
def test_0135_delete_takes_a_name_and_answers_nothing(name: str) -> None:
    method = METHODS[f"Delete{name}"]
    request = fields(method.input_type)

    assert method.output_type.full_name == "google.protobuf.Empty"
    assert set(request) <= {"name", "etag", "force"}
    assert_reference(request["name"], to=NAMES[name])
    if name in WITH_CHILDREN:
        assert type_name(request["force"]) == "bool"


def test_0136_other_methods_have_a_verb_without_prepositions() -> None:
    for name in METHODS:
        assert not PREPOSITIONS & {word.lower() for word in re.findall("[A-Z][a-z]+", name)}, name


# 140 to 148: fields.


def test_0140_names_have_no_prepositions_but_for_the_known_ones() -> None:
    assert {name for name in FIELDS if PREPOSITIONS & set(name.partition(".")[2].split("_"))} == WITH_PREPOSITIONS


def test_0140_names_are_plain_words() -> None:
    for name, field in FIELDS.items():
        words = field.name.split("_")
        assert field.name not in RESERVED, name
        assert not {"identifier", "information", "configuration", "specification", "statistics"} & set(words), name
        assert not any(word[:1].isdigit() for word in words), name


def test_0141_quantities_have_signed_types_and_no_num() -> None:
    for name, field in FIELDS.items():
        assert type_name(field) not in FORBIDDEN_TYPES, name
        assert not field.name.startswith("num_"), name


def test_0142_times_end_in_time_and_neither_times_nor_durations_are_numbers() -> None:
    times = {name for name, field in FIELDS.items() if type_name(field) == "google.protobuf.Timestamp"}
    units = {name for name, field in FIELDS.items() if field.name.split("_")[-1] in TIME_UNITS}

    assert {name for name in times if not name.endswith("_time")} == TIME_WITHOUT_SUFFIX
    assert units <= times


def test_0146_nothing_is_an_any_or_a_struct() -> None:
    loose = {"google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Value"}

    assert not {name for name, field in FIELDS.items() if type_name(field) in loose}


def test_0148_the_times_of_a_resource_are_the_servers() -> None:
    for message in RESOURCES.values():
        for field in message.fields:
            if type_name(field) == "google.protobuf.Timestamp":
                assert behaviors(field) == {"OUTPUT_ONLY"}, (message.name, field.name)


# 154 to 216: guards, behaviors, lifetimes.


def test_0154_an_etag_is_a_string_once() -> None:
    etags = {name for name, field in FIELDS.items() if field.name == "etag"}

    assert {type_name(FIELDS[name]) for name in etags} == {"string"}
    assert not etags & {"UpdateFleetRequest.etag", "UpdateInstanceRequest.etag"}


def test_0163_a_dry_run_is_called_validate_only() -> None:
    assert not {name for name in FIELDS if re.search(r"\.(dry_run|validate|check_only)$", name)}


def test_0203_every_field_of_requests_and_resources_says_its_behavior() -> None:
    resources = {(message.name, field.name) for message in RESOURCES.values() for field in message.fields}
    checked = {name for name, _ in fields_of_requests()} | {f"{message}.{field}" for message, field in resources}
    etags_of_resources = {f"{message.name}.etag" for message in RESOURCES.values()}

    for name in checked - etags_of_resources:
        assert len(behaviors(FIELDS[name])) == 1, name
    for name in checked & etags_of_resources:  # 154: it is both read and sent back
        assert not behaviors(FIELDS[name]), name


def test_0203_the_name_of_a_resource_and_nothing_else_is_its_identifier() -> None:
    found = {name for name, field in FIELDS.items() if "IDENTIFIER" in behaviors(field)}

    assert found == {f"{message.name}.name" for message in RESOURCES.values()}


def test_0203_an_answer_says_no_behavior() -> None:
    own = messages_in_requests().keys() | {message.name for message in RESOURCES.values()}

    assert not {name for name, field in FIELDS.items() if name.partition(".")[0] not in own and behaviors(field)}


def test_0214_what_expires_has_a_ttl_that_is_a_duration() -> None:
    for message in RESOURCES.values():
        if "expire_time" in fields(message):
            assert type_name(fields(message)["ttl"]) == "google.protobuf.Duration"


def test_0216_a_state_is_an_enum_of_its_message_and_the_servers() -> None:
    states = {
        f"{message.name}.state": fields(message)["state"]
        for message in RESOURCES.values()
        if "state" in fields(message)
    }

    assert set(states) == {"Instance.state", "Allocation.state"}
    for field in states.values():
        assert field.enum_type.name == "State"
        assert field.enum_type.containing_type is field.containing_type
    assert {name for name, field in states.items() if behaviors(field) != {"OUTPUT_ONLY"}} == STATE_THAT_IS_SET


# 191, 192, 215: files and comments.


def test_0191_every_file_names_its_package_in_each_language() -> None:
    for file in FILES:
        options, stem = file.GetOptions(), file.name.rpartition("/")[2].removesuffix(".proto")
        assert options.go_package == "github.com/blockyard/blockyard/gen/go/blockyard/v1;blockyardv1"
        assert options.java_package == "dev.blockyard.v1"
        assert options.java_multiple_files
        assert options.java_outer_classname == "".join(word.title() for word in stem.split("_")) + "Proto"
        assert options.csharp_namespace == "Blockyard.V1"


def test_0191_the_table_of_files_is_complete() -> None:
    assert {file.name for file in FILES} == {
        str(path.relative_to(FOLDER)) for path in (FOLDER / "blockyard").rglob("*.proto")
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_0192_comments_stand_above_what_they_are_about_and_are_plain_text(file: Any) -> None:
    for number, line in enumerate((FOLDER / file.name).read_text(encoding="utf-8").splitlines(), start=1):
        code, comment = line.partition("//")[::2]
        assert not (code.strip() and comment), f"line {number}: a comment beside code"
        text = re.sub(r"`[^`]*`", "", comment)
        assert not re.search(r"</?[a-z]+[ >]|^ *#+ |^ *\|", text), f"line {number}: markup"


def test_0215_types_of_others_are_googles_common_ones() -> None:
    foreign = {
        field.message_type.file.name
        for field in FIELDS.values()
        if field.message_type is not None and field.message_type.file.package != "blockyard.v1"
    }

    assert foreign == {
        f"google/{name}.proto"
        for name in ("protobuf/duration", "protobuf/field_mask", "protobuf/timestamp", "rpc/status")
    }
