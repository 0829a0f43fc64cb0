"""The access token as a constructor argument of LangChain's models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

if TYPE_CHECKING:
    Token = SecretStr | str  # the constructor accepts both
else:
    Token = SecretStr


def secret_from_env(name: str) -> SecretStr | None:
    """Return the secret in an environment variable, if it is set."""
    value = os.environ.get(name)
    return SecretStr(value) if value else None


def plain_token(token: Any) -> Any:
    """Return the token itself; an assigned plain string has not been converted by pydantic."""
    return token.get_secret_value() if isinstance(token, SecretStr) else token
