"""Questions in CSV files: what is odd stays as it is, what is wrong is told with its row."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.sources import Files, find_files
from baichuan2.evaluation.tables import read_ceval, read_cmmlu, read_mmlu

Reader = Callable[[Files, str, str], Iterator[Item]]
CEVAL = "id,question,A,B,C,D,answer\n"
CMMLU = ",Question,A,B,C,D,Answer\n"


def read(tmp_path: Path, reader: Reader, text: str, name: str = "x_val.csv") -> list[Item]:
    (tmp_path / name).write_bytes(text.encode())
    return list(reader(find_files(tmp_path, "x", folders=[], roots=[""], expected=[name]), name, "law"))


def test_ceval_with_explanations_of_several_lines(tmp_path: Path) -> None:
    text = 'id,question,A,B,C,D,answer,explanation\n0,问？,甲,乙,丙,丁,B,"1. 一\n2. 二"\n7,q2,a,b,c,d,D,e\n'
    assert read(tmp_path, read_ceval, text) == [
        Item(subject="law", number="0", question="问？", options=("甲", "乙", "丙", "丁"), answer=1),
        Item(subject="law", number="7", question="q2", options=("a", "b", "c", "d"), answer=3),
    ]


def test_ceval_test_has_no_answers(tmp_path: Path) -> None:
    text = "id,question,A,B,C,D\n0,q,a,b,c,d\n"
    assert [item.answer for item in read(tmp_path, read_ceval, text, "law_test.csv")] == [None]
    with pytest.raises(DataError, match=r"law_val\.csv has no column answer: it has id, question"):
        read(tmp_path, read_ceval, text, "law_val.csv")


def test_a_column_of_empty_answers_in_ceval_test_holds_none(tmp_path: Path) -> None:
    items = read(tmp_path, read_ceval, CEVAL + "0,q,a,b,c,d,\n1,q,a,b,c,d,\n", "law_test.csv")
    assert [item.answer for item in items] == [None, None]
    with pytest.raises(DataError, match=r"row 3 \(line 3\) answer: expected a letter"):
        read(tmp_path, read_ceval, CEVAL + "0,q,a,b,c,d,A\n1,q,a,b,c,d,\n", "law_test.csv")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path: Path, end: str, mark: str) -> None:
    text = mark + (CMMLU + '0,"第一行\n第二行",a,b,c,d,A\n').replace("\n", end)
    (item,) = read(tmp_path, read_cmmlu, text)
    assert (item.number, item.question, item.answer) == ("0", "第一行\n第二行", 0)


def test_odd_texts_stay_as_they_are(tmp_path: Path) -> None:
    text = '"Is it ""so""?\n2nd line, {question}",None, leading,nan,"1,000",D\nq,NA,null,0.50,"",A\n'.replace(
        '"",A', "N/A,A"
    )
    first, second = read(tmp_path, read_mmlu, text)
    assert first.question == 'Is it "so"?\n2nd line, {question}'
    assert first.options == ("None", " leading", "nan", "1,000")
    assert second.options == ("NA", "null", "0.50", "N/A")
    assert [first.number, second.number] == ["0", "1"]


def test_full_width_letters_and_spaces_are_answers(tmp_path: Path) -> None:
    items = read(tmp_path, read_ceval, CEVAL + "0,q,a,b,c,d,Ｃ\n1,q,a,b,c,d, B \n")
    assert [item.answer for item in items] == [2, 1]


def test_one_empty_option_is_asked_and_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"row 2 \(line 2\) B: the option is empty; it is asked as it stands"):
        items = read(tmp_path, read_ceval, CEVAL + "0,q,a,,c,d,A\n")
    assert items[0].options == ("a", "", "c", "d")


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_ceval, "", r"has no column id, question, A, B, C, D: its first line holds -"),
        (read_ceval, "id,question,A,B,C,answer\n", r"has no column D"),
        (read_ceval, "id,question,A,A,B,C,D,answer\n", r"has two columns A"),
        (read_ceval, CEVAL + "0,q,a,b,c,d,E\n", r"row 2 \(line 2\) answer: expected a letter from A to D, got 'E'"),
        (read_ceval, CEVAL + "0,q,a,b,c,d,AB\n", r"answer: expected a letter from A to D, got 'AB'"),
        (read_ceval, CEVAL + "0,q,a,b,c,d,\n", r"answer: expected a letter from A to D, got ''"),
        (read_ceval, CEVAL + "0,q,a,b,c,d,b\n", r"answer: expected a letter from A to D, got 'b'"),
        (read_ceval, CEVAL + "0,q,a,,c,,A\n", r"row 2 \(line 2\) D: expected the text of an option, got ''"),
        (read_ceval, CEVAL + "0, ,a,b,c,d,A\n", r"question: expected a text, got ' '"),
        (read_ceval, CEVAL + "0,q,a,b,c,A\n", r"row 2 \(line 2\) has 6 cells, the header 7"),
        (read_ceval, CEVAL + '0,"q\nq",a,b,c,d,A\n1,q,a,b,c,d,e,A\n', r"row 3 \(line 4\) has 8 cells, the header 7"),
        (read_ceval, CEVAL + '0,"q,a,b,c,d,A\n1,q,a,b,c,d,A\n', r"row 2 \(line 2\): unexpected end of data"),
        (read_ceval, CEVAL + '0,"q"x,a,b,c,d,A\n', r"row 2 \(line 2\): '.' expected after"),
        (read_ceval, CEVAL + "0,q\0,a,b,c,d,A\n", r"line 2 holds a NUL"),
        (read_ceval, CEVAL + f"0,{'q' * 140_000},a,b,c,d,A\n", r"row 2 \(line 2\): field larger than field limit"),
        (
            read_ceval,
            CEVAL + "0,q,a,b,c,d,A\n0,r,a,b,c,d,A\n",
            r"row 3 \(line 3\): the number 0 stands in an earlier row",
        ),
        (read_ceval, CEVAL + ",q,a,b,c,d,A\n", r"row 2 \(line 2\) has no number"),
        (read_cmmlu, CEVAL + "0,q,a,b,c,d,A\n", r"has no column Question, Answer"),
        (read_mmlu, "q,a,b,c,d\n", r"row 1 \(line 1\) has 5 cells, not 6: is this a file of MMLU"),
        (read_mmlu, CEVAL.replace("id", "index") + "0,q,a,b,c,A\n", r"row 2 \(line 2\) has 6 cells, not 7"),
        (read_mmlu, CEVAL + "0,q,a,b,c,d,A\n", r"begins as files of C-Eval do"),
        (read_mmlu, "q,a,b,c,d,1\nr,a,b,c,d,2\n", r"holds the answers 1, 2, of which nobody can say"),
        (read_mmlu, "q,a,b,c,d,0\nr,a,b,c,d,4\n", r"holds the answers 0, 4, of which nobody can say"),
        (read_mmlu, "q,a,b,c,d,0\nr,a,b,c,d,B\n", r"row 1 \(line 1\) answer: expected a letter from A to D, got '0'"),
        (
            read_mmlu,
            "question,subject,choices,answer\nq,law,['a' 'b' 'c' 'd'],0\n",
            r"choices: expected a list of four",
        ),
        (read_mmlu, "question,subject,answer\nq,law,0\n", r"needs the columns question, A, B, C, D, answer"),
        (read_mmlu, "question,choices,answer\nq," + "(" * 40_000 + ",0\n", r"choices: expected a list of four"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_row(tmp_path: Path, reader: Reader, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, reader, text)
    assert str(caught.value).startswith(str(tmp_path / "x_val.csv"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "q,a,b,c,d,C\nr,e,f,g,h,A\n",
        "q,a,b,c,d,2\nr,e,f,g,h,0\n",
        "question,A,B,C,D,answer\nq,a,b,c,d,2\nr,e,f,g,h,0\n",
        "prompt,A,B,C,D,answer\nq,a,b,c,d,C\nr,e,f,g,h,A\n",
        "input,a,b,c,d,target\nq,a,b,c,d,C\nr,e,f,g,h,A\n",
        "question,subject,choices,answer\nq,law,\"['a', 'b', 'c', 'd']\",2\nr,law,\"['e', 'f', 'g', 'h']\",0\n",
    ],
)
def test_mmlu_as_published_and_as_exported(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, read_mmlu, text) == [
        Item(subject="law", number="0", question="q", options=("a", "b", "c", "d"), answer=2),
        Item(subject="law", number="1", question="r", options=("e", "f", "g", "h"), answer=0),
    ]
