"""tinyfcn/data/names.py: class names as annotation tools write them."""

from pathlib import Path

import pytest

from tinyfcn.data.names import IGNORE, VOC_CLASSES, read_class_names
from tinyfcn.errors import InputError

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:51,221,255::\nroad:250,50,83::\n"
DATUMARO = "background:0,0,0::\ncar:51,221,255::door,wheel:\nignored:224,224,192::\n"
ROBOFLOW = 'Pixel Value, Class\n0, background\n1, car\n2, "road, paved"\n'


@pytest.mark.parametrize(
    ("name", "text", "names", "colours"),
    [
        ("classes.txt", "# mine\nground\n\ncar\n_background_\n", ("ground", "car", "_background_"), {}),
        ("classes.txt", "# mine\nground,0\ncar, 1\n", ("ground", "car"), {}),
        ("classes.txt", "1: car\n0: bare ground\n", ("bare ground", "car"), {}),
        ("classes.txt", "class 0\nclass 1\n", ("class 0", "class 1"), {}),
        ("classes.txt", "lane 1\nlane 2\n", ("lane 1", "lane 2"), {}),
        ("class_names.txt", "__ignore__\n_background_\ncar\n", ("background", "car"), {}),
        ("class_names.txt", "_background_\r\n#1 car\r\n", ("background", "#1 car"), {}),
        (
            "labelmap.txt",
            CVAT,
            ("background", "car", "road"),
            {(0, 0, 0): 0, (51, 221, 255): 1, (250, 50, 83): 2},
        ),
        ("labelmap.txt", DATUMARO, ("background", "car"), {(0, 0, 0): 0, (51, 221, 255): 1, (224, 224, 192): IGNORE}),
        ("labelmap.txt", "ground:::\ncar:::\n", ("ground", "car"), {}),
        ("_classes.csv", ROBOFLOW, ("background", "car", "road, paved"), {}),
        ("_classes.csv", "Pixel Value,Class\n1,car\n0,background\n", ("background", "car"), {}),
    ],
)
def test_names_are_read_as_tools_write_them(tmp_path, name, text, names, colours):
    (tmp_path / name).write_text(text)
    read = read_class_names(tmp_path)
    assert (read.names, read.colours, read.path) == (names, colours, tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # as Notepad and PowerShell write them
def test_names_of_windows(tmp_path, encoding):
    (tmp_path / "classes.txt").write_bytes("straße\r\nauto\r\n".encode(encoding))
    assert read_class_names(tmp_path).names == ("straße", "auto")


def test_without_names_they_are_vocs(tmp_path):
    assert read_class_names(tmp_path) == (VOC_CLASSES, {}, None)


def test_the_first_folder_with_names_counts(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/_classes.csv").write_text(ROBOFLOW)
    assert read_class_names(tmp_path, tmp_path / "labels").names[1] == "car"
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert read_class_names(tmp_path, tmp_path / "labels").names == ("one", "two")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("classes.txt", "car\nroad\ncar\n", "the class car 2 times"),
        ("class_names.txt", "_background_\nbackground\n", "the class background 2 times"),
        ("classes.txt", "\n", "names 0 classes"),
        ("labelmap.txt", "car:51,221::\n", "'car:51,221::'; expected name:red,green,blue::"),
        ("labelmap.txt", "car:51,221,256::\n", "numbers from 0 to 255"),
        ("labelmap.txt", "car:5,5,5::\nroad:5,5,5::\n", "the colour 5,5,5 twice"),
        ("_classes.csv", "Pixel Value, Class\n0, background\n2, car\n", "each value from 0 on once"),
        ("_classes.csv", "background\ncar\n", "columns Pixel Value and Class"),
    ],
)
def test_names_that_cannot_be_used_are_refused(tmp_path: Path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name) as error:
        read_class_names(tmp_path)
    assert words in str(error.value)
