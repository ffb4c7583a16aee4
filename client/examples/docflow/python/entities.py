"""Finds dates, amounts, e-mail addresses, invoice numbers and IBANs in text.

The same rules as the stage in Rust (src/entities.rs), so that the rest of the
pipeline cannot tell which of the two is running.
"""

import re
from datetime import date as calendar_date

KINDS = ["date", "amount", "email", "invoice_number", "iban"]
MONTHS = (
    "january february march april may june july august september october november december"
).split()
SIGNS = {"€": "EUR", "$": "USD", "£": "GBP"}

ISO_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
DOTTED_DATE = re.compile(r"\b(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})\b")
DAY_MONTH_DATE = re.compile(r"(?i)\b(\d{1,2})\.?\s+([a-z]+)\s+(\d{4})\b")
MONTH_DAY_DATE = re.compile(r"(?i)\b([a-z]+)\s+(\d{1,2}),\s*(\d{4})\b")
AMOUNT_AFTER = re.compile(r"(EUR|USD|GBP|CHF|€|\$|£)\s?(\d[\d.,]*\d|\d)")
AMOUNT_BEFORE = re.compile(r"(\d[\d.,]*\d|\d)\s?(EUR|USD|GBP|CHF|€|£)")
EMAIL = re.compile(r"(?i)\b[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}\b")
INVOICE_NUMBER = re.compile(r"(?i)\binvoice\s*(?:no\.?|number|#)\s*:?\s*([A-Z0-9][A-Z0-9/-]*\d)")
IBAN = re.compile(r"\b([A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8})\b")


def find(text):
    """Everything that is found, each once, in order of kind and value."""
    found = set()

    def add(kind, value):
        if value is not None:
            found.add((KINDS.index(kind), value))

    for m in ISO_DATE.finditer(text):
        add("date", date(m[1], m[2], m[3]))
    for m in DOTTED_DATE.finditer(text):
        add("date", date(m[3], m[2], m[1]))
    for m in DAY_MONTH_DATE.finditer(text):
        add("date", date(m[3], month(m[2]), m[1]))
    for m in MONTH_DAY_DATE.finditer(text):
        add("date", date(m[3], month(m[1]), m[2]))
    for m in AMOUNT_AFTER.finditer(text):
        add("amount", amount(m[1], m[2]))
    for m in AMOUNT_BEFORE.finditer(text):
        # "EUR 5.00 EUR" is one amount with a currency too many.
        currencies = ("EUR", "USD", "GBP", "CHF", *SIGNS)
        if not text[: m.start()].rstrip().endswith(currencies):
            add("amount", amount(m[2], m[1]))
    for m in EMAIL.finditer(text):
        add("email", m[0].lower())
    for m in INVOICE_NUMBER.finditer(text):
        add("invoice_number", m[1].upper())
    for m in IBAN.finditer(text):
        add("iban", iban(m[1]))
    return [{"kind": KINDS[kind], "value": value} for kind, value in sorted(found)]


def month(name):
    """1 to 12 for the name of a month, or at least three letters of it."""
    matching = [at for at, month in enumerate(MONTHS, 1) if month.startswith(name.lower())]
    return matching[0] if matching and len(name) >= 3 else None


def date(year, month, day):
    if month is None or not 1900 <= int(year) < 2200:
        return None
    try:
        return calendar_date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return None


def amount(currency, digits):
    """The last of "." and "," with two digits after it is the decimal sign, all
    others group thousands."""
    whole, cents = digits, "00"
    if len(digits) >= 3 and digits[-3] in ".,":
        whole, cents = digits[:-3], digits[-2:]
    groups = re.split(r"[.,]", whole)
    grouped = len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])
    value = "".join(groups)
    if not value or int(value) >= 2**64 or (len(groups) > 1 and not grouped):
        return None
    return f"{SIGNS.get(currency, currency)} {int(value)}.{cents}"


def iban(text):
    """The longest beginning that is an IBAN with a right checksum (ISO 13616, by
    ISO 7064 MOD 97-10)."""
    compact = text.replace(" ", "")
    for length in range(len(compact), 14, -1):
        head = compact[:length]
        number = "".join(str(int(c, 36)) for c in head[4:] + head[:4])
        if length <= 34 and int(number) % 97 == 1:
            return head
    return None
