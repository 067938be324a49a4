"""Finds the code of a language from what people write for it.  Beside step 5.

One function serves every place where a language may be named: a session, the form of a file, the command line.

Pure.  It knows codes of ISO 639 (-1 where there is one), region and script behind them (BCP 47), and names; not which
engine understands what.  Source: ISO 639-2 and 639-3, for the languages that speech recognition is made for.
"""

from __future__ import annotations

# code, then its codes of three letters and its names
_TABLE = """
af afr afrikaans | am amh amharic | ar ara arb arabic العربية | as asm assamese | az aze azerbaijani | ba bak bashkir
be bel belarusian | bg bul bulgarian български | bn ben bengali bangla | bo bod tib tibetan | br bre breton
bs bos bosnian | ca cat catalan valencian català | cs ces cze czech čeština | cy cym wel welsh cymraeg
da dan danish dansk | de deu ger german deutsch | el ell gre greek ελληνικά | en eng english | eo epo esperanto
es spa spanish castilian español espanol castellano | et est estonian eesti | eu eus baq basque euskara
fa fas per persian farsi فارسی | fi fin finnish suomi | fo fao faroese | fr fra fre french français francais
ga gle irish gaeilge | gl glg galician galego | gu guj gujarati | ha hau hausa | haw hawaiian | he heb hebrew iw עברית
hi hin hindi हिन्दी | hr hrv croatian hrvatski | ht hat haitian | hu hun hungarian magyar | hy hye arm armenian
id ind indonesian | ig ibo igbo | is isl ice icelandic íslenska | it ita italian italiano | ja jpn japanese 日本語
jw jv jav javanese | ka kat geo georgian | kk kaz kazakh | km khm khmer | kn kan kannada | ko kor korean 한국어
ku kur kurdish | ky kir kyrgyz | la lat latin | lb ltz luxembourgish | ln lin lingala | lo lao | lt lit lithuanian
lv lav latvian | mg mlg malagasy | mi mri mao maori | mk mkd mac macedonian | ml mal malayalam | mn mon mongolian
mr mar marathi | ms msa may malay | mt mlt maltese | my mya bur burmese myanmar | nb nob bokmål | ne nep nepali
nl nld dut dutch flemish nederlands | nn nno nynorsk | no nor norwegian norsk | oc oci occitan | or ori odia
pa pan punjabi panjabi | pl pol polish polski | ps pus pashto pushto | pt por portuguese português portugues
ro ron rum romanian moldavian moldovan română | ru rus russian русский | sa san sanskrit | sd snd sindhi
si sin sinhala sinhalese | sk slk slo slovak slovenčina | sl slv slovenian slovene | sn sna shona | so som somali
sq sqi alb albanian shqip | sr srp serbian српски | su sun sundanese | sv swe swedish svenska | sw swa swahili
ta tam tamil | te tel telugu | tg tgk tajik | th tha thai ไทย | tk tuk turkmen | tl tgl fil tagalog filipino
tr tur turkish türkçe | tt tat tatar | uk ukr ukrainian українська | ur urd urdu | uz uzb uzbek
vi vie vietnamese | xh xho xhosa | yi yid yiddish | yo yor yoruba | yue cantonese
zh zho chi cmn chinese mandarin 中文 | zu zul zulu
"""
_CODES = {
    word: words[0] for line in _TABLE.replace("\n", " | ").split("|") if (words := line.split()) for word in words
}
CODES = tuple(dict.fromkeys(_CODES.values()))
WHATEVER = ("", "auto", "automatic", "detect", "multi", "und", "mul")  # the engine finds out


def language_of(text: str) -> str | None:
    """The code of a language, None for "whatever is spoken": `en-US`, `EN`, `eng`, `english` -> `en`.

    Raises ValueError, which says what to write, for what names no language."""
    word = text.strip().casefold()
    if word in WHATEVER:
        return None
    code = _CODES.get(word) or _CODES.get(word.replace("_", "-").partition("-")[0])
    if code is None:
        shown = text if len(text) <= 40 else text[:39] + "…"
        raise ValueError(f"{shown!r} names no language: give a code such as 'en' or 'de', or leave it out")
    return code
