"""transfer.json as a screen and as a report: one page that needs no network and runs no script."""

from univar_jax.report import drawings, sheet
from univar_jax.statistics import moves


def report(found: dict) -> dict[str, bytes]:
    """The files of a report by name, transfer.json last.

    Args:
      found: what transfer.json will hold.
    """
    files = {}
    if found["values"] and found["values"]["energy"]:
        files["transfer.png"] = drawings.moved(found["values"], found["sources"])
    files["report.html"] = sheet.page("transfer.html.j2", found, files, sentence=sentence, told=told, holds=holds)
    return files | {"transfer.json": sheet.json_of(found)}


def say(found: dict) -> None:
    """Prints the figures that a reader looks for first."""
    for name in ("values", "control"):
        if part := found[name]:
            print(f"{name:9} {sentence(part, found['sources'])}")
            for teacher, of in part["teachers"].items():
                near = of["energy"]
                gone = f"{near['before']:.4f} before, {near['after']:.4f} after"
                print(f"teacher   {teacher}: energy {gone}: {near['verdict']}")
    for student in (found["pgr"] or {"students": []})["students"]:
        print(f"pgr       {holds(student)}")
    for note in found["notes"]:
        print(f"note      {note}")


def sentence(part: dict, roles: dict, distance: str = "energy") -> str:
    """What a part found, in a sentence."""
    if part["verdict"] == moves.NOT_ENOUGH:
        text = f"Not enough: all sources answered {part['groups']} question groups, {part['groups_needed']} are needed."
        left, groups = max(part["without"].items(), key=lambda item: item[1])
        return text + (f" Without {left} there are {groups}." if groups > part["groups"] else "")
    found, over = part[distance], f"{part['questions']:,} questions of {part['groups']} groups"
    if found["transfer"] is None:
        small = f"{roles['before']} is not clearly apart from {roles['ceiling']} ({distance} distance "
        small += f"{found['before']:.4f} [{', '.join(f'{x:.4f}' for x in found['before_ci'])}], by chance up to "
        return f"{small}{found['floor']:.4f}; {over}), so there is no way to go. {_needed(part, found)}"
    ends = " to ".join(f"{100 * x:.0f}" for x in found["ci"])
    share = f"{100 * found['transfer']:.0f} % (95 % interval {ends} %)"
    whole = f"of its {distance} distance to {roles['ceiling']}, over {over}"
    match found["verdict"]:
        case moves.TOWARDS:
            return f"{roles['after']} has gone {share} {whole}."
        case moves.AWAY:
            return f"{roles['after']} went away from where {roles['before']} was: {share} {whole}."
    return f"No move shown: {roles['after']} has gone {share} {whole}."


def _needed(part: dict, found: dict) -> str:
    if found["groups_needed"] is None:
        return "No distance is found at all, so no number of rows can be said to be enough."
    rows = found["groups_needed"] * max(part["rows"].values()) / part["groups"]
    return (
        f"Some {found['groups_needed']:,} groups, {rows:,.0f} rows of each, would be enough for a distance like this."
    )


def told(part: dict, found: dict | None) -> str:
    """A part's figure by one distance in a few words, for a table."""
    if found is None:
        return f"not enough: {part['groups']} of {part['groups_needed']} groups"
    if found["transfer"] is None:
        needed = found["groups_needed"]
        return f"{found['verdict']}; {f'{needed:,} groups needed' if needed else 'no distance found'}"
    return f"{100 * found['transfer']:.0f} % ({' to '.join(f'{100 * x:.0f}' for x in found['ci'])})"


def holds(student: dict) -> str:
    """Whether weak to strong holds for a student, and its PGR, in a sentence."""
    who = student["name"]
    if student["ensemble"]:
        who = f"the {student['ensemble']} of {who}'s students, against that of their teachers"
    else:
        who += f" taught by {student['taught_by']}"
    accs = f"weak {student['weak']:.3f}, student {student['student']:.3f}, ceiling {student['ceiling']:.3f}"
    gain = f"{100 * student['gain']['difference']:+.1f} points"
    if student["gain"]["ci"]:
        gain += f" [{', '.join(f'{100 * x:+.1f}' for x in student['gain']['ci'])}]"
    held = f"{who}: {accs}; weak to strong {student['verdict']} ({gain})"
    if student["pgr"] is None:
        needed = student["groups_needed"]
        return f"{held}; no PGR: {student['no_pgr']}{f'; {needed:,} groups are needed' if needed else ''}."
    ends = ", ".join("∞" if x is None else f"{x:.2f}" for x in student["ci"])
    return f"{held}; PGR {student['pgr']:.2f} [{ends}]."
