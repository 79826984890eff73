from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrr_edge.report.markup import Markup, element, plain_markdown, together

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"))


@given(text=WORDS, value=WORDS)
def test_text_and_attributes_come_back_as_they_went_in(text: str, value: str) -> None:
    root = ElementTree.fromstring(element("p", text, element("b", text), title=value))
    assert (root.text or "") == text
    assert (root[0].text or "") == text
    assert root.get("title") == value


def test_a_script_stays_words() -> None:
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    attack = "\"><script>alert(1)</script>'"
    Reader().feed(element("p", attack, element("i", attack, title=attack), title=attack))
    assert seen == ["p", "i"]


def test_markup_is_not_escaped_twice() -> None:
    assert together((element("b", "1 < 2"), " & ", Markup("<i></i>"))) == "<b>1 &lt; 2</b> &amp; <i></i>"


def test_attributes_are_named_left_out_and_rounded() -> None:
    made = element("rect", class_="a", stroke_width=1 / 3, x=12345678.0, y=0, hidden=True, fill=None, rx=False)
    assert made == '<rect class="a" stroke-width="0.33" x="12345678" y="0" hidden></rect>'
    assert element("meta", charset="utf-8", name="x") == '<meta charset="utf-8" name="x">'


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_whatever_the_words_it_is_xml(words: str) -> None:
    assert ElementTree.fromstring(element("p", words, title=words)).tag == "p"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a|b\r\n**c**", r"a\|b  \*\*c\*\*"),
        ("@owner", "@<!-- -->owner"),
        ("see https://x.y and WWW.x.y", "see https<!-- -->://x.y and WWW<!-- -->.x.y"),
        ("<b> & [d](e)", r"&lt;b&gt; &amp; \[d\](e)"),
        ("1.05: 3.2 ms, a-b", "1.05: 3.2 ms, a-b"),
    ],
)
def test_markdown_shows_words_as_they_are(words: str, said: str) -> None:
    assert plain_markdown(words) == said
