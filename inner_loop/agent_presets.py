"""Command lines of the common coding-agent CLIs, to be run unattended, once for each experiment.

Owns: their flags, and where each vendor documents them (all read in November 2026).
Does not own: running them (`agent_run.py`) or what they are told (`prompts/agent.md`).

In the box an agent may do everything, for little else is in it. Without a box it gets no more than
leave to edit files: the CLI's own sandbox or its refusals are all there is then.
"""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """How one CLI is run. A command without `{prompt_file}` or `{prompt}` reads standard input."""

    boxed: str
    """Its command line in an agent box."""
    unboxed: str | None
    """The same where there is no box: edits in the working folder only; None = it has no such."""
    model: str
    """What is appended where the track names a model."""
    keys: tuple[str, ...]
    """Variables that hold its key; `agent_variables` names the one to hand over."""
    source: str
    """Where its flags are documented."""

    @property
    def executable(self) -> str:
        """The program that must be on PATH."""
        return self.boxed.split()[0]


_AIDER = (
    "aider --message-file {prompt_file} --yes-always --no-git --no-check-update "
    "--no-show-release-notes --no-suggest-shell-commands --no-pretty --no-stream train.py"
)

PRESETS = {
    "claude": Preset(
        "claude -p --dangerously-skip-permissions",
        "claude -p --permission-mode acceptEdits",
        "--model {model}",
        ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
        "https://code.claude.com/docs/en/headless",
    ),
    "codex": Preset(
        "codex exec --skip-git-repo-check --ephemeral --color never "
        "--dangerously-bypass-approvals-and-sandbox",
        "codex exec --skip-git-repo-check --ephemeral --color never --sandbox workspace-write",
        "--model {model}",
        ("CODEX_API_KEY", "OPENAI_API_KEY"),
        "https://developers.openai.com/codex/noninteractive",
    ),
    "gemini": Preset(
        "gemini --approval-mode yolo --skip-trust",
        "gemini --approval-mode auto_edit --skip-trust",
        "--model {model}",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "https://geminicli.com/docs/cli/headless",
    ),
    "qwen": Preset(
        "qwen --approval-mode yolo",
        "qwen --approval-mode auto-edit",
        "--model {model}",
        ("OPENAI_API_KEY", "DASHSCOPE_API_KEY"),
        "https://qwenlm.github.io/qwen-code-docs/en/users/features/headless",
    ),
    "aider": Preset(
        _AIDER,
        _AIDER,
        "--model {model}",
        ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"),
        "https://aider.chat/docs/scripting.html",
    ),
    "opencode": Preset(
        "opencode run --auto {prompt}",
        "opencode run {prompt}",
        "--model {model}",
        ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENCODE_API_KEY"),
        "https://opencode.ai/docs/cli",
    ),
    "cursor": Preset(
        "cursor-agent -p --trust --force {prompt}",
        "cursor-agent -p --trust {prompt}",
        "--model {model}",
        ("CURSOR_API_KEY",),
        "https://cursor.com/docs/cli/headless",
    ),
    "copilot": Preset(
        "copilot -p {prompt} -s --no-ask-user --allow-all-tools",
        "copilot -p {prompt} -s --no-ask-user --allow-tool=write",
        "--model={model}",
        ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"),
        "https://docs.github.com/en/copilot/reference/copilot-cli-reference/cli-programmatic-reference",
    ),
    "goose": Preset(
        "goose run --no-session --with-builtin developer -i {prompt_file}",
        None,
        "--model {model}",
        ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"),
        "https://block.github.io/goose/docs/guides/running-tasks",
    ),
}
