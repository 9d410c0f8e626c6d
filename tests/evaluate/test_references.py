"""Tables of reference events."""

import pytest

from ussfast import InputError
from ussfast.detect.events import Event
from ussfast.evaluate.references import read_references

HEAD = "filename\tonset\toffset\tevent_label\n"


def written(folder, text, **options):
    (folder / "events.tsv").write_text(text, **options)
    return folder / "events.tsv"


def test_events_by_file(tmp_path):
    rows = "b.wav\t1\t2.5\tdog\na.wav\t0.00\t1e1\ta \"bell\" - rings\nb.wav\t0\t0.5\tdog\n\n"
    expected = {
        tmp_path / "b.wav": [Event("dog", 1.0, 2.5, 1.0), Event("dog", 0.0, 0.5, 1.0)],
        tmp_path / "a.wav": [Event('a "bell" - rings', 0.0, 10.0, 1.0)],
    }
    for text in (HEAD + rows, rows, "\ufeff" + (HEAD + rows).replace("\n", "\r\n")):
        found = read_references(written(tmp_path, text, encoding="utf-8", newline=""))
        assert found == expected and list(found) == list(expected)
    there = read_references(written(tmp_path, rows), tmp_path / "audio")
    assert list(there) == [tmp_path / "audio/b.wav", tmp_path / "audio/a.wav"]


def test_columns_in_any_order_and_files_without_events(tmp_path):
    text = "event_label\tid\tonset\tfilename\toffset\ndog\t7\t1\ta.wav\t2\n\t8\t\tsilent.wav\t\n"
    found = read_references(written(tmp_path, text))
    assert found == {tmp_path / "a.wav": [Event("dog", 1.0, 2.0, 1.0)], tmp_path / "silent.wav": []}
    assert read_references(written(tmp_path, "a.wav\t1\t2\tdog\nsilent.wav\n"))[tmp_path / "silent.wav"] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no events"),
        (HEAD, "has no events"),
        (HEAD + "a.wav\n", "has no events"),
        (HEAD + "a.wav\t1\t2\tdog\n\t1\t2\tdog\n", "line 3: the filename is missing"),
        (HEAD + "a.wav\t2\t1\tdog\n", "line 2: onset and offset must be seconds, the onset first, got '2' and '1'"),
        (HEAD + "a.wav\t1\t1\tdog\n", "line 2: onset and offset"),
        (HEAD + "a.wav\t-1\t1\tdog\n", "line 2: onset and offset"),
        (HEAD + "a.wav\t\t1\tdog\n", "got '' and '1'"),
        (HEAD + "a.wav\tnan\tinf\tdog\n", "got 'nan' and 'inf'"),
        (HEAD + "a.wav\t1\t2\t\n", "line 2: the event_label is missing"),
        (HEAD + "a.wav\t1\t2\tdog\tmore\n", "line 2: has 5 columns instead of 4"),
        ("filename\tonset\toffset\na.wav\t1\t2\n", "the column 'event_label' is missing"),
        ("filename,onset,offset,event_label\na.wav,1,2,dog\n", "has no events"),
        ("a.wav\t1\t2\tdog\0\n\0\t1\t2\tdog\n", "filename is missing|not readable"),
    ],
)
def test_other_tables_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_references(written(tmp_path, text))


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(InputError, match="no such table of events"):
        read_references(tmp_path / "gone.tsv")
    with pytest.raises(InputError, match="no such table of events"):
        read_references(tmp_path)
    (tmp_path / "x.tsv").write_bytes(b"\xff\xfe\x00audio")
    with pytest.raises(InputError, match="not readable as a table"):
        read_references(tmp_path / "x.tsv")
