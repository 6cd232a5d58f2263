"""The reasons of a verdict and the limits of image flags, from the rules and the list of flags."""

from docs.generate.markdown import escape, list_table
from emqa_dask.triage.flag_list import FLAGS, Flag
from emqa_dask.triage.rules import PRECEDENCE, RULES, Rule


def render_page() -> str:
    """A table per verdict, the one that counts first at the top, and the limits of image flags."""
    parts = []
    for verdict in PRECEDENCE:
        rows = [(f"`{rule.code}`", _describe(rule)) for rule in RULES if rule.verdict == verdict]
        if rows:
            parts.append(f"## `{verdict}`\n\n" + list_table(("reason", "meaning"), rows, "reasons"))
    return "\n".join([*parts, _flag_limits()])


def _describe(rule: Rule) -> str:
    """The meaning of a rule, and its part in combinations of findings."""
    sentences = [escape(rule.meaning)]
    if rule.is_doubt:
        sentences.append("It counts as a doubt.")
    if rule.min_doubts:
        sentences.append(f"It holds for rows with at least {rule.min_doubts} different doubts.")
    return " ".join(sentences)


def _flag_limits() -> str:
    rows = [(f"`{flag.code}`", _statistic(flag), "above" if flag.is_above else "below", _limit(flag)) for flag in FLAGS]
    table = list_table(("flag", "statistic", "fault lies", "limit"), rows, "reasons")
    intro = "An image has a flag where a statistic passes a limit. Some flags ask for further conditions as well.\n"
    return f"(limits-of-flags)=\n## Limits of image flags\n\n{intro}\n{table}"


def _statistic(flag: Flag) -> str:
    return f"{{column}}`features.{flag.statistic}`" if isinstance(flag.statistic, str) else "computed from several"


def _limit(flag: Flag) -> str:
    return f"{{confval}}`flags.{flag.limit}`" if isinstance(flag.limit, str) else f"{flag.limit:g}"
