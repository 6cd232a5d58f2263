"""Keys of settings that were renamed; the former name is refused with the present one."""

from emqa_dask.settings.rules import SettingsError

RENAMED_KEYS = {  # former name -> present name, both as section.key; the former one is refused
    "detect.device": "run.device",
    "report.trust_f1": "triage.trust_f1",
    "report.max_ood_distance": "triage.max_ood_distance",
    "report.max_entropy_nats": "triage.max_entropy_nats",
    "report.review_share": "triage.review_share",
    "report.target_risk": "triage.target_risk",
    "predict.forests": "predict.models",
}


def refuse_renamed_keys(changes: dict, source: str) -> None:
    """Raises SettingsError with the present name of the first key in `changes` that has been renamed."""
    for section, values in changes.items():
        for key in values if isinstance(values, dict) else ():
            if name := RENAMED_KEYS.get(f"{section}.{key}"):
                new_section, _, new_key = name.partition(".")
                raise SettingsError(
                    f"{source}: setting {section}.{key} was renamed: write {name}, "
                    f"which is {new_key} in section [{new_section}]"
                )
