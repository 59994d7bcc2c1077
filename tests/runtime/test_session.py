from tests.fake_live import *


async def test_smoke(world):
    c = await world.guest()
    assert await c.ask("version") == "codec 1 tail 1"
    r = await world.load(FIX)
    print(r)
    assert await c.ask("version") == "codec 2 tail 2"
    print(await world.rollback())
    assert await c.ask("version") == "codec 1 tail 1"
