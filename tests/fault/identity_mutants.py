"""Mutants that are deceived about who calls: by tokens, JWTs, certificates and the auth file."""

from typing import Final

from tests.fault.mutant import Edit, Mutant

LOGIN: Final = "tests/auth/test_file_authenticator.py"
JWKS: Final = "tests/auth/test_jwks.py"

PROOFS_OF_IDENTITY: Final[dict[str, Mutant]] = {
    "takes an expired JWT out of its cache": Mutant(
        "a JWT ends when it says so, also if it was seen before",
        (
            Edit(
                "rpc/auth/file_authenticator.py",
                "until_s = min(verified.exp_s, now_s + JWT_CACHED_S)",
                "until_s = now_s + JWT_CACHED_S",
            ),
        ),
        (f"{LOGIN}::test_an_expired_jwt_never_comes_from_the_cache",),
    ),
    "knows a token by its beginning": Mutant(
        "only the whole token is one",
        (
            Edit(
                "rpc/auth/file_authenticator.py",
                "principal = self._tokens.get(sha256)",
                'principal = next((p for p in self._tokens.values() if p.via == f"token:{bearer[5:13]}"), None)',
            ),
        ),
        (f"{LOGIN}::test_only_the_whole_token_is_one",),
    ),
    "lets a certificate make a bad token good": Mutant(
        "a token decides, whatever else is shown",
        (
            Edit(
                "rpc/auth/file_authenticator.py",
                "            return self._of_other_bearer(bearer, sha256)",
                "            if certificate:\n"
                "                return self._state.directory.of_certificate(certificate)\n"
                "            return self._of_other_bearer(bearer, sha256)",
            ),
        ),
        (f"{LOGIN}::test_a_bearer_decides_also_beside_a_certificate",),
    ),
    "goes on with a token that was revoked": Mutant(
        "a stream ends when its principal is no longer what it was",
        (Edit("rpc/auth/file_authenticator.py", "return state.directory.still_has(principal)", "return True"),),
        ("tests/auth/test_auth_file_changes.py::test_a_long_call_ends_when_its_principal_would_be_another_one",),
    ),
    "overlooks a key that it does not know": Mutant(
        "a misspelt key of the auth file is no rule without effect",
        (Edit("rpc/auth/toml_table.py", "if key not in self._asked:", "if key not in self._asked and False:"),),
        ("tests/auth/test_auth_file.py::test_what_is_not_understood_is_refused_with_its_place",),
    ),
    "forgets the keys of an issuer that is away": Mutant(
        "an issuer's outage is none of Blockyard's",
        (Edit("rpc/auth/jwks.py", "self.failures += 1", "self._keys, self.failures = {}, self.failures + 1"),),
        (f"{JWKS}::test_an_outage_keeps_the_keys_for_a_day",),
    ),
    "asks an issuer whenever a stranger names a key": Mutant(
        "strangers do not decide how often an issuer is asked",
        (
            Edit(
                "rpc/auth/jwks.py",
                "await asyncio.sleep(self._attempt_s + self._times.retry_s - self._monotonic())",
                "pass",
            ),
        ),
        (f"{JWKS}::test_strangers_who_name_keys_do_not_have_the_issuer_asked_more_often",),
    ),
    "follows the issuer to another place": Mutant(
        "keys come from where the auth file says",
        (
            Edit(
                "rpc/auth/jwks_source.py",
                "urllib.request.HTTPDefaultErrorHandler(),",
                "urllib.request.HTTPDefaultErrorHandler(),\n            urllib.request.HTTPRedirectHandler(),",
            ),
        ),
        (f"{JWKS}::test_an_answer_other_than_ok_is_refused_and_a_redirect_is_not_followed",),
    ),
    "maps a tenant that is somebody else's": Mutant(
        "claims do not make an owner of what others have",
        (Edit("rpc/auth/directory.py", "if self._is_taken(tenant, id_):", "if False:"),),
        (f"{LOGIN}::test_a_mapped_name_is_never_that_of_somebody_else",),
    ),
}
