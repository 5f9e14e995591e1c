"""CoNLL reading and tag schemes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contract import DataError, SpecError
from components.ingest.readers.conll import read_conll
from components.ingest.tags import SchemeEvidence, bio2_labels, to_bio2


def read(tmp_path, text, columns=None):
    path = tmp_path / "data.conll"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_conll(path, columns or {}))


@pytest.mark.parametrize("separator", ["\n", "\t\n", "  \n", "\r\n", "\n\n\n"])
def test_lines_of_white_space_separate_sentences(tmp_path, separator):
    examples = read(tmp_path, f"a\tO\nb\tB-X\n{separator}c\tO\n")
    assert [e.text for e in examples] == [["a", "b"], ["c"]]
    assert [e.label for e in examples] == [["O", "B-X"], ["O"]]
    assert examples[0].line == 1


@pytest.mark.parametrize("ending", ["\n", "", "\n\n", "\r\n"])
def test_bom_and_missing_final_newline(tmp_path, ending):
    examples = read(tmp_path, b"\xef\xbb\xbf" + f"Ann B-PER{ending}".encode())
    assert [(e.text, e.label) for e in examples] == [(["Ann"], ["B-PER"])]


def test_documents_are_kept_and_marks_are_no_sentences(tmp_path):
    text = (
        "-DOCSTART- -X- O O\n\na x y O\n\nb x y O\n\n-DOCSTART- -X- O O\n\nc x y O\n\n-DOCSTART-\n"
    )
    examples = read(tmp_path, text)
    assert [(e.text, e.group) for e in examples] == [(["a"], 0), (["b"], 0), (["c"], 1)]


def test_comments_are_skipped_but_a_hash_is_a_word(tmp_path):
    text = "# sent_id = 1\n# hello world\n# O\n#tag O\n\n# newdoc id = 2\nx O\n"
    examples = read(tmp_path, text)
    assert [e.text for e in examples] == [["#", "#tag"], ["x"]]
    tabbed = read(tmp_path, "a\tO\n\n# text = a b c\n#\tO\nb\tO\n")
    assert [e.text for e in tabbed] == [["a"], ["#", "b"]]


def test_columns_are_chosen_by_position(tmp_path):
    examples = read(tmp_path, "1 Ann NNP B-PER x\n2 ran VBD O x\n", {"tokens": 1, "labels": 3})
    assert examples[0].text == ["Ann", "ran"]
    assert examples[0].label == ["B-PER", "O"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\n", r"data.conll:2: 1 columns where the first row has 2"),
        ("a\tO\nb\tO\tO\n", r"data.conll:2: 3 columns"),
        ("alone\n", r"data.conll:1: one column only"),
        (b"a\tO\nb\xff\tO\n", r"data.conll:2: byte 2 of the line \(0xff\) is not UTF-8"),
        (b"a\tO\nb\x00c\tO\n", r"data.conll:2: NUL byte"),
        ("a\tO\n".encode("utf-16"), r"data.conll:1: file is UTF-16"),
        ("x" * 10_001 + "\tO\n", r"data.conll:1: word of 10001 characters"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path):
    with pytest.raises(DataError, match="longer than 16 MiB"):
        read(tmp_path, b"x" * (17 << 20))


@pytest.mark.parametrize("columns", [{"tokens": 5}, {"labels": "tag"}, {"tokens": True}])
def test_wrong_positions_are_spec_errors(tmp_path, columns):
    with pytest.raises(SpecError, match=r"data\.columns\."):
        read(tmp_path, "a\tO\n", columns)


def detect(*sentences):
    evidence = SchemeEvidence()
    for sentence in sentences:
        evidence.add(sentence.split(), "f:1")
    return evidence.scheme()


def test_schemes_are_told_apart():
    assert detect("O I-P I-P O I-L B-L") == "IOB1"
    assert detect("O B-P I-P O B-L B-L") == "BIO2"
    assert detect("O S-P O B-L E-L") == "BIOES"
    assert detect("O U-P O B-L L-L") == "BIOES"
    # A stray I- in BIO2 data does not make it IOB1.
    assert detect("O B-P I-P", "O I-L") == "BIO2"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O I-P I-P O I-L B-L", "O B-P I-P O B-L B-L"),  # IOB1
        ("S-P O B-L I-L E-L B-L E-L", "B-P O B-L I-L I-L B-L I-L"),  # BIOES
        ("U-P B-L L-L U-L", "B-P B-L I-L B-L"),  # BILOU
        ("B-P I-L O I-P", "B-P B-L O B-P"),  # broken
    ],
)
def test_conversion_to_bio2(tags, expected):
    assert to_bio2(tags.split()) == expected.split()


@pytest.mark.parametrize("tag", ["X-PER", "PER", "B-", "B-a,B-b", "o", "B_PER", "-"])
def test_unknown_tags_are_refused(tag):
    with pytest.raises(DataError, match=r"f:1: .* (tag|label)"):
        detect(f"O {tag}")


ENTITIES = st.lists(
    st.tuples(st.sampled_from(["P", "L", None]), st.integers(1, 4)), min_size=1, max_size=8
)


def spell(entities, scheme):
    """Write entities (type and length; None is outside) in a scheme."""
    tags, previous = [], None
    for kind, length in entities:
        if kind is None:
            tags += ["O"] * length
        elif scheme == "IOB1":
            tags += [("B-" if previous == kind else "I-") + kind] + ["I-" + kind] * (length - 1)
        elif scheme == "BIO2":
            tags += ["B-" + kind] + ["I-" + kind] * (length - 1)
        else:
            tags += (
                ["S-" + kind]
                if length == 1
                else ["B-" + kind, *["I-" + kind] * (length - 2), "E-" + kind]
            )
        previous = kind
    return tags


@given(ENTITIES)
def test_every_scheme_converts_to_the_same_bio2(entities):
    wanted = spell(entities, "BIO2")
    assert to_bio2(spell(entities, "IOB1")) == wanted
    assert to_bio2(spell(entities, "BIOES")) == wanted
    assert to_bio2(wanted) == wanted


def test_labels_begin_with_o():
    assert bio2_labels({"b", "a"}) == ["O", "B-a", "I-a", "B-b", "I-b"]
