"""The command `humo`: one file a command."""
