"""Lines of Markdown tables."""


def table_head(*names: str) -> list[str]:
    return [table_row(*names), "|" + "---|" * len(names)]


def table_row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
