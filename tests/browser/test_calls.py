"""A call between two browsers: ringing, answering, the meter, moving between tabs, coming back."""

from __future__ import annotations

import asyncio
import json
import re

from playwright.async_api import Page, WebSocketRoute, expect

from tests.browser.browsing import PHONE, SEVERAL_PERIODS, People, in_a_call, said_to_agora
from tests.browser.conftest import QUICK, Grant
from tests.metering import meter_clock
from tests.servers import AGORA_APP_ID, Launch, Server, eventually


async def test_two_people_call_each_other_and_the_meter_runs(server: Server, people: People, grant: Grant) -> None:
    await grant(server, "ann", 500)
    bob = await (await people.come(server, "bob", **PHONE)).home()
    ann = await (await people.come(server, "ann")).home()
    await in_a_call(ann, bob, "bob")

    [[_, app_id, channel, anns_token, anns_uid]] = await eventually(lambda: said_to_agora(ann, "join"))
    [[_, _, bobs_channel, bobs_token, bobs_uid]] = await eventually(lambda: said_to_agora(bob, "join"))
    assert app_id == AGORA_APP_ID
    assert channel == bobs_channel
    assert (anns_uid, anns_token) != (bobs_uid, bobs_token)
    for page in (ann, bob):
        await eventually(lambda page=page: said_to_agora(page, "publish"))
        await expect(page.locator(".remote video")).to_be_visible()
        await expect(page.locator(".self video")).to_be_visible()

    for page, first_token in ((ann, anns_token), (bob, bobs_token)):
        await eventually(lambda page=page: _renewed_more(page, 1))
        renewed = [entry[1] for entry in await said_to_agora(page, "renewToken")]
        assert len({first_token, *renewed}) == len(renewed) + 1 >= 3, "a token of its own for each period paid"

    async def agree() -> bool:
        """The figures of either side, however far the meter is."""
        [spent, balance], [paid, earned] = await _figures(ann, "call-balance"), await _figures(bob, "call-earnings")
        return spent >= 30 and paid >= 30 and balance == 500 - spent and earned == paid * 80 // 100

    await eventually(agree)

    await bob.get_by_role("button", name="End").click()
    for page in (ann, bob):
        await expect(page.get_by_role("dialog", name="Call ended")).to_be_visible()
        await eventually(lambda page=page: said_to_agora(page, "leave"))
        closed = {entry[1] for entry in await said_to_agora(page, "closed")}
        assert closed == {"audio", "video"}, "camera and microphone are let go"


async def _figures(page: Page, other: str) -> list[int]:
    """What was spent and another figure beside it, read at one moment."""
    texts: list[str] = await page.evaluate(
        "names => names.map(name => document.querySelector(`[data-testid=${name}]`)?.textContent ?? '')",
        ["spent", other],
    )
    return [int(text.replace(",", "")) if text[:1].isdigit() else -1 for text in texts]


async def test_the_tab_that_answers_stops_the_ringing_in_the_others(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "cleo", 500)
    dans = await people.come(server, "dan")
    tabs = [await dans.home() for _ in range(3)]
    cleo = await (await people.come(server, "cleo")).home()

    await cleo.get_by_role("button", name="Call dan").click()
    for tab in tabs:
        await expect(tab.get_by_role("alertdialog", name="cleo is calling")).to_be_visible()
    await tabs[1].get_by_role("button", name="Answer").click()
    await expect(tabs[1].get_by_role("button", name="End")).to_be_visible()
    for tab in (tabs[0], tabs[2]):
        await expect(tab.get_by_role("alertdialog")).to_have_count(0)
        await expect(tab.get_by_text("You’re in a call with cleo")).to_be_visible()
        assert await said_to_agora(tab) == []


async def test_a_call_moves_to_another_tab(server: Server, people: People, grant: Grant) -> None:
    await grant(server, "eve", 500)
    eves = await people.come(server, "eve")
    finn = await (await people.come(server, "finn")).home()
    eve, eve_too = await eves.home(), await eves.home()
    await in_a_call(eve, finn, "finn")

    await eve_too.get_by_role("button", name="Continue here").click()
    await expect(eve_too.get_by_role("button", name="End")).to_be_visible()
    await eventually(lambda: said_to_agora(eve_too, "join"))
    await eventually(lambda: said_to_agora(eve, "leave"))
    await expect(eve.get_by_text("You’re in a call with finn")).to_be_visible()


async def test_declining_cancelling_and_missing_are_told_to_both(
    launch: Launch, database_url: str, people: People, grant: Grant
) -> None:
    server = launch()
    await grant(server, "ann", 500)
    bob = await (await people.come(server, "bob")).home()
    ann = await (await people.come(server, "ann")).home()

    await ann.get_by_role("button", name="Call bob").click()
    await bob.get_by_role("button", name="Decline").click()
    await expect(ann.get_by_text("bob declined.")).to_be_visible()

    await ann.get_by_role("button", name="Call bob").click()
    await expect(bob.get_by_role("alertdialog")).to_be_visible()
    await ann.get_by_role("button", name="Cancel").click()
    await expect(bob.get_by_text("ann stopped calling.")).to_be_visible()

    await ann.get_by_role("button", name="Call bob").click()
    await expect(bob.get_by_role("alertdialog")).to_be_visible()
    async with meter_clock(database_url) as move:
        await move(45)
        await asyncio.gather(  # both are shown for some seconds only
            expect(bob.get_by_text("You missed a call from ann.")).to_be_visible(),
            expect(ann.get_by_text("bob didn’t answer.")).to_be_visible(),
        )


async def test_a_ringing_call_that_cannot_be_declined_says_why_where_one_looks_and_can_be_declined_again(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "xena", 500)
    yuris = await people.come(server, "yuri")
    refused = []

    def refuse_once(socket: WebSocketRoute) -> None:
        there = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            command = re.match(r'42(\d+)\["call:decline"', str(message))
            if command and not refused:
                refused.append(command[1])
                error = {"code": "unavailable", "message": "The database cannot be reached."}
                socket.send(f"43{command[1]}{json.dumps([{'ok': False, 'error': error}])}")
            else:
                there.send(message)

        socket.on_message(pass_on)

    await yuris.context.route_web_socket(re.compile("/socket.io/"), refuse_once)
    yuri = await yuris.home()
    xena = await (await people.come(server, "xena")).home()

    await xena.get_by_role("button", name="Call yuri").click()
    dialog = yuri.get_by_role("alertdialog", name="xena is calling")
    await dialog.get_by_role("button", name="Decline").click()
    await expect(dialog.get_by_role("alert")).to_have_text("The server can’t do this right now. Try again in a moment.")
    assert refused
    await dialog.get_by_role("button", name="Decline").click()
    await expect(xena.get_by_text("yuri declined.")).to_be_visible()


async def test_a_reload_in_mid_call_rejoins(server: Server, people: People, grant: Grant) -> None:
    await grant(server, "grace", 500)
    hugo = await (await people.come(server, "hugo")).home()
    grace = await (await people.come(server, "grace")).home()
    await in_a_call(grace, hugo, "hugo")
    [first] = await eventually(lambda: said_to_agora(grace, "join"))

    await grace.reload()
    await expect(grace.get_by_role("button", name="End")).to_be_visible()
    [again] = await eventually(lambda: said_to_agora(grace, "join"))
    assert (again[2], again[4]) == (first[2], first[4]), "the same channel, as the same uid"
    await eventually(lambda: said_to_agora(grace, "renewToken"))
    await hugo.reload()
    await eventually(lambda: said_to_agora(hugo, "join"))
    await expect(hugo.get_by_role("button", name="End")).to_be_visible()


async def test_a_reload_while_it_rings_goes_on_ringing_and_can_be_answered(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "ida", 500)
    jack = await (await people.come(server, "jack")).home()
    ida = await (await people.come(server, "ida")).home()
    await ida.get_by_role("button", name="Call jack").click()
    await expect(jack.get_by_role("alertdialog")).to_be_visible()
    await ida.reload()
    await jack.reload()
    await expect(ida.get_by_role("dialog", name="Calling jack")).to_be_visible()
    await jack.get_by_role("button", name="Answer").click()
    for page in (ida, jack):
        await eventually(lambda page=page: said_to_agora(page, "join"))


async def test_a_server_restart_in_mid_call_is_survived(launch: Launch, people: People, grant: Grant) -> None:
    settings = {**QUICK, "RECONNECT_GRACE_SECONDS": 30}
    server = launch(**settings)
    await grant(server, "ann", 500)
    bob = await (await people.come(server, "bob")).home()
    ann = await (await people.come(server, "ann")).home()
    await in_a_call(ann, bob, "bob")
    await eventually(lambda: said_to_agora(ann, "renewToken"))

    server.kill()
    await expect(ann.get_by_text("Reconnecting to the server…")).to_be_visible()
    launch(PORT=server.port, **settings)
    for page in (ann, bob):
        await expect(page.get_by_text("Reconnecting to the server…")).to_have_count(0)
        renewed = len(await said_to_agora(page, "renewToken"))
        await eventually(lambda page=page, renewed=renewed: _renewed_more(page, renewed + 1))
        assert len(await said_to_agora(page, "join")) == 1, "the video never stopped, so nobody joined anew"
        await expect(page.get_by_role("button", name="End")).to_be_visible()
    await ann.get_by_role("button", name="End").click()
    await expect(bob.get_by_role("dialog", name="Call ended")).to_be_visible()


async def _renewed_more(page: Page, than: int) -> bool:
    return len(await said_to_agora(page, "renewToken")) > than


async def test_a_low_balance_warns_and_the_end_of_it_ends_the_call(
    launch: Launch, database_url: str, people: People, grant: Grant
) -> None:
    server = launch(CALL_GRACE_SECONDS=300)
    await grant(server, "ann", 30)
    bob = await (await people.come(server, "bob")).home()
    ann = await (await people.come(server, "ann")).home()
    await in_a_call(ann, bob, "bob")
    await expect(ann.get_by_text("paid for")).to_be_visible()
    await expect(ann.get_by_role("alert")).to_have_count(0)
    async with meter_clock(database_url) as move:
        await move(60)
        await expect(ann.get_by_text("Your balance pays for 1 min more.")).to_be_visible()
        await move(120)
        await expect(ann.get_by_text("Your balance can’t pay for more.")).to_be_visible()
        await expect(bob.get_by_role("alert")).to_have_count(0)
        await move(180)
        await expect(ann.get_by_role("heading", name="Your balance ran out")).to_be_visible()
    await expect(ann.get_by_test_id("summary-spent")).to_have_text("30")
    await expect(bob.get_by_role("heading", name="The caller’s balance ran out")).to_be_visible()


async def test_without_the_video_service_the_call_says_so_and_goes_on(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "mia", 500)
    noah = await (await people.come(server, "noah")).home()
    mia = await (await people.come(server, "mia", agora=False)).home()
    await in_a_call(mia, noah, "noah")
    await expect(mia.get_by_text("The video service can’t be reached.")).to_be_visible()
    await expect(mia.get_by_test_id("spent")).to_have_text(SEVERAL_PERIODS)
    await mia.get_by_role("button", name="End").click()
    await expect(mia.get_by_role("dialog", name="Call ended")).to_be_visible()


async def test_on_a_server_without_an_agora_project_the_sdk_is_never_fetched(
    launch: Launch, people: People, grant: Grant
) -> None:
    server = launch(**QUICK, AGORA_APP_ID="", AGORA_APP_CERTIFICATE="")
    await grant(server, "ann", 500)
    anns = await people.come(server, "ann")
    bob = await (await people.come(server, "bob")).home()
    ann = await anns.home()
    await in_a_call(ann, bob, "bob")
    await expect(ann.get_by_text("Video isn’t set up on this server.")).to_be_visible()
    await expect(ann.get_by_test_id("spent")).to_have_text(SEVERAL_PERIODS)
    assert anns.agora_requests == []


async def test_the_agora_sdk_is_fetched_when_it_rings_and_not_before(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "olga", 500)
    olgas, pauls = await people.come(server, "olga", role="admin"), await people.come(server, "paul")
    paul = await pauls.home()
    olga = await olgas.home()
    for page in ("History", "Earnings", "Operations", "People"):
        await olga.get_by_role("link", name=page).click()
        await expect(olga.get_by_role("heading", level=1, name=page)).to_be_visible()
    await olga.wait_for_load_state("networkidle")
    assert olgas.agora_requests == pauls.agora_requests == []

    await olga.get_by_role("button", name="Call paul").click()
    await expect(paul.get_by_role("alertdialog")).to_be_visible()
    await eventually(lambda: olgas.agora_requests and pauls.agora_requests)


async def test_a_person_without_a_camera_still_has_a_call(server: Server, people: People, grant: Grant) -> None:
    await grant(server, "quinn", 500)
    rosa = await (await people.come(server, "rosa")).home()
    quinn = await (await people.come(server, "quinn", permissions=["microphone"])).home()
    await quinn.add_init_script(
        "navigator.mediaDevices.getUserMedia = () => Promise.reject({code: 'PERMISSION_DENIED'})"
    )
    await quinn.reload()
    await in_a_call(quinn, rosa, "rosa")
    await expect(quinn.get_by_text("Camera not allowed")).to_be_visible()
    await expect(quinn.get_by_role("button", name="Unmute")).to_be_disabled()
    await expect(quinn.locator(".remote video")).to_be_visible()


async def test_muting_and_stopping_the_camera_reach_the_video_service(
    server: Server, people: People, grant: Grant
) -> None:
    await grant(server, "sam", 500)
    tess = await (await people.come(server, "tess")).home()
    sam = await (await people.come(server, "sam")).home()
    await in_a_call(sam, tess, "tess")
    await sam.get_by_role("button", name="Mute", exact=True).click()
    await sam.get_by_role("button", name="Stop video").click()
    await expect(sam.get_by_role("button", name="Start video")).to_be_visible()
    await sam.get_by_role("button", name="Unmute").click()
    await eventually(lambda: _muted(sam))
    await tess.get_by_role("button", name="End").click()


async def _muted(page: Page) -> bool:
    said = [entry[1:] for entry in await said_to_agora(page, "muted")]
    return said == [["audio", True], ["video", True], ["audio", False]]
