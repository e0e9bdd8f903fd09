"""What `unbroken doctor` says of a certificate: each of its faults has another remedy."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from unbroken.gateway.checkup import examine
from unbroken.upstream.scripted import ScriptedUpstream

from .conftest import settings_of, upstream_settings

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)

# what: (whom the certificate is for, when it ends, whether its authority is trusted, what to do)
CERTIFICATES: dict[str, tuple[str, timedelta, bool, str]] = {
    "of an unknown authority": ("127.0.0.1", DAY, False, "set ca_file to the authority that signed it"),
    "of another host": ("other.example", DAY, True, "name the server in base_url as its certificate does"),
    "of another address": ("192.0.2.1", DAY, True, "name the server in base_url as its certificate does"),
    "that has expired": ("127.0.0.1", -DAY, True, "renew the certificate, or set the clock of this machine"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
async def test_a_certificate_that_is_refused(name: str, tmp_path: Path) -> None:
    host, lasts, is_trusted, advice = CERTIFICATES[name]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    now = datetime.now(UTC)
    authority.issue_cert(host, not_before=now - 2 * DAY, not_after=now + lasts).configure_cert(context)
    async with ScriptedUpstream(ssl_context=context) as upstream:
        ca_file = str(tmp_path / "ca.pem") if is_trusted else ""
        settings = settings_of(upstream_settings("up0", upstream, ca_file=ca_file), server={"port": 0})
        found = {finding.what: finding async for finding in examine(settings)}['upstream "up0"']
    assert not found.is_well
    assert "is not trusted" in found.found
    assert found.advice == advice
