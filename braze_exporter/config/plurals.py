"""Write numbers with their nouns."""


def pluralize(number: float, singular: str, plural: str) -> str:
    """Return a number, rounded to a whole one, with its noun in singular or plural."""
    return f"{number:,.0f} {singular if round(number) == 1 else plural}"
