"""`lookalike upgrade`: a project of an earlier version, brought to this one."""


def upgrade() -> None:
    """Brings the project in this folder to the installed version of the package.

    Keys that params.yaml lacks are added with their defaults, those that nothing reads any more go, and every
    value of yours stays; dvc.yaml is written as this version has it, with the stages that you froze or added.
    `git diff` shows what changed.

    \b
    Example:
      lookalike upgrade
    """
    from pipeline.project.upgrade import upgrade_project
    from pipeline.recipes import shown

    done = upgrade_project()
    for key, value in done.added.items():
        print(f"params.yaml: {key}: added, {shown(value)}")
    for key, value in done.removed.items():
        print(f"params.yaml: {key}: removed, it was {shown(value)}")
    if done.chain:
        print("dvc.yaml: written anew")
    if not (done.added or done.removed or done.chain):
        print("nothing to change")
    print("next: dvc repro")
