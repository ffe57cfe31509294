"""Words that are heard in another script are compared by sound, and wrong ones still count."""

import pytest

from tests.hearing.words import compare

pytestmark = pytest.mark.unit

SAID = "बच्चे नदी के पास खेल रहे हैं"


@pytest.mark.parametrize(
    ("heard", "most", "least"),
    [
        ("بچے ندی کے پاس کھیل رہے ہیں", 0.1, 0.0),
        ("بچے گھر کے پاس کھیل رہے ہیں", 0.3, 0.15),
        ("بچے ندی کے پاس بیٹھے ہیں", 0.5, 0.2),
        ("مجھے گھر کی چابی نہیں مل رہی ہے", 1.0, 0.6),
        ("", 1.0, 1.0),
    ],
)
def test_hindi_is_heard_in_the_script_of_urdu(heard: str, most: float, least: float) -> None:
    assert least <= compare(SAID, heard, "hi", by_sound=True).share <= most
