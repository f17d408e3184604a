"""Which options of the library may be given for a bucket, and by what name.

All others are refused: some are of the client and not of the store, which the library ends a thread over; some have a
key of our own, and would go round what is checked there; and the library knows most by several names.
"""

from __future__ import annotations

from collections.abc import Mapping

PREFIXES = ("aws_", "azure_storage_", "azure_", "google_")
SYNONYMS = {
    "access_key": "account_key",
    "client_secret_key": "client_secret",
    "default_region": "region",
    "endpoint_url": "endpoint",
    "endpoint_url_s3": "endpoint",
    "master_key": "account_key",
    "sas_token": "sas_key",
    "virtual_hosted_style": "virtual_hosted_style_request",
}
OURS = {
    "allow_http": "allow_http",
    "application_credentials": "credentials_file",
    "base_url": "endpoint",
    "bucket": "url",
    "bucket_name": "url",
    "connect_timeout": "connect_within",
    "container_name": "url",
    "endpoint": "endpoint",
    "read_timeout": "stall_within",
    "region": "region",
    "root_certificate": "tls_ca",
    "service_account": "credentials_file",
    "service_account_path": "credentials_file",
    "timeout": "request_within",
}
"""What has a key of its own, and which."""

SECRET = frozenset(
    {
        "access_key_id",
        "account_key",
        "bearer_token",
        "client_secret",
        "encryption_key",
        "sas_key",
        "secret_access_key",
        "service_account_key",
        "session_token",
        "sse_customer_key_base64",
        "token",
    }
)
OPEN = frozenset(
    {
        "account_name",
        "authority_host",
        "checksum_algorithm",
        "client_id",
        "conditional_put",
        "copy_if_not_exists",
        "disable_bulk_delete",
        "disable_tagging",
        "federated_token_file",
        "imdsv1_fallback",
        "msi_endpoint",
        "msi_resource_id",
        "object_id",
        "request_payer",
        "role_arn",
        "role_session_name",
        "s3_express",
        "server_side_encryption",
        "skip_signature",
        "sse_bucket_key_enabled",
        "sse_kms_key_id",
        "tenant_id",
        "unsigned_payload",
        "use_azure_cli",
        "use_emulator",
        "use_fabric_endpoint",
        "virtual_hosted_style_request",
        "web_identity_token_file",
    }
)


def plain_name(option: str) -> str:
    """The one name of an option that is known by several."""
    name = option.lower()
    for prefix in PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return SYNONYMS.get(name, name)


def check_options(options: Mapping[str, object], secret_files: Mapping[str, object]) -> None:
    """Raises ValueError, which repeats no value."""
    seen: set[str] = set()
    for key, given, known in (("options", options, OPEN), ("secret_files", secret_files, SECRET)):
        for option in given:
            name = plain_name(option)
            if name in OURS:
                raise ValueError(f"{key}.{option} has a key of its own: write {OURS[name]}")
            if key == "options" and name in SECRET:
                raise ValueError(f"options.{option} is a secret: give its file in secret_files")
            if name not in known:
                raise ValueError(
                    f"{key}.{option} is not known; there are {', '.join(sorted(known))}"
                )
            if name in seen:
                raise ValueError(f"{key}.{option} is given twice")
            seen.add(name)
