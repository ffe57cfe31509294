"""Lets many volunteers serve many requests while processes are killed: `python -m tests.volunteer_soak [--seed N]`.

Exit code 1 where a request was lost, a reward was not paid once, or the ledger does not balance.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from tests.benchmarks.figures import percentile, table_of
from tests.volunteer_soak.audit import audit, kudos
from tests.volunteer_soak.http import Edges
from tests.volunteer_soak.requesters import ANONYMOUS_KEY, Request, follow
from tests.volunteer_soak.site import MODELS, SHARES, Killer, Site
from tests.volunteer_soak.volunteers import MANNERS, Manner, Offer, Told, Volunteer

OWNERS = 8
LOOPS_OF_ONE_NAME = 4
KUDOS = {"none": 0, "some": 300, "many": 20_000}
"""What the accounts of each class have at the start, beside those who ask anonymously."""
ANONYMOUS = "anonymous"
SETTLE_TIMEOUT_S = 120.0
GIVE_UP_S = 130.0
END_WAIT_S = 140.0


def main() -> int:
    """Exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.volunteer_soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="default: by chance")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--volunteers", type=int, default=200)
    parser.add_argument("--over", type=float, default=100.0, metavar="S", help="how long requests come")
    parser.add_argument("--folder", type=Path, help="where stores and logs stay")
    arguments = parser.parse_args()
    logging.getLogger("callboard_kit").setLevel(logging.ERROR)
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="callboard-soak-") as temporary:
        site = Site(arguments.folder or Path(temporary))
        try:
            site.start()
            problems = asyncio.run(_soak(site, arguments))
        finally:
            site.deployment.abandon()
    for problem in problems[:40]:
        print(f"WRONG: {problem}")
    print(f"{len(problems)} problems, seed {arguments.seed}")
    return 1 if problems else 0


async def _soak(site: Site, arguments: argparse.Namespace) -> list[str]:
    dice = random.Random(arguments.seed)
    owners = [await asyncio.to_thread(site.deployment.create_key, "standard") for _ in range(OWNERS)]
    askers = {ANONYMOUS: ANONYMOUS_KEY}
    for name, amount in KUDOS.items():
        askers[name] = await asyncio.to_thread(site.deployment.create_key, "standard")
        if amount:
            await asyncio.to_thread(site.deployment.command, "kudos", "earn", askers[name], str(amount))
    began, told = time.monotonic(), Told()
    requests = _requests(arguments.requests, askers, dice)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        edges = Edges(site.urls, session, random.Random(arguments.seed + 1))
        offers = _offers(arguments.volunteers, owners, dice)
        volunteers = [
            group.create_task(Volunteer(offer, edges, told, random.Random(dice.random())).run()) for offer in offers
        ]
        ended = asyncio.Event()
        killer = Killer(site, dice, began)
        killing = group.create_task(killer.run(ended.is_set))
        await asyncio.sleep(3)
        asking = []
        for request in requests:
            asking.append(group.create_task(follow(request, edges, random.Random(dice.random()), GIVE_UP_S)))
            await asyncio.sleep(arguments.over / len(requests) * dice.uniform(0, 2))
        print(f"{time.monotonic() - began:6.1f} s: all have asked, {_ended(requests)} have ended", flush=True)
        await asyncio.wait(asking, timeout=END_WAIT_S)
        print(f"{time.monotonic() - began:6.1f} s: {_ended(requests)} have ended", flush=True)
        ended.set()
        await killing
        for task in (*volunteers, *asking):
            task.cancel()
    return await _judged(site, requests, told, killer.kills)


def _ended(requests: Sequence[Request]) -> int:
    return sum(request.end is not None for request in requests)


def _requests(count: int, askers: dict[str, str], dice: random.Random) -> list[Request]:
    names = list(askers)
    return [
        Request(
            number,
            name := dice.choice(names),
            askers[name],
            dice.choices(MODELS, SHARES)[0],
            dice.choice((16, 16, 18, 22, 26)),
        )
        for number in range(count)
    ]


def _offers(count: int, owners: Sequence[str], dice: random.Random) -> list[Offer]:
    manners: list[Manner] = [manner for manner, number in MANNERS.items() for _ in range(max(1, number * count // 200))]
    dice.shuffle(manners)
    found: list[Offer] = []
    for number, manner in enumerate(manners[:count]):
        # Some programs have several loops of one name.
        name = f"perch-{number // LOOPS_OF_ONE_NAME}" if number < count // 10 else f"bird-{number}"
        key = owners[number // LOOPS_OF_ONE_NAME % len(owners)]
        models = tuple(dict.fromkeys(dice.choices(MODELS, SHARES, k=dice.choice((1, 1, 2)))))
        if found and found[-1].name == name:
            models = found[-1].models
        found.append(
            Offer(
                name,
                key,
                manner,
                models,
                long_polling=dice.random() < 0.5,
                tells=dice.random() < 0.4,
                amount=dice.choice((1, 1, 1, 2)),
            )
        )
    return found


async def _judged(site: Site, requests: Sequence[Request], told: Told, kills: Sequence[str]) -> list[str]:
    problems = [
        f"request {one.number} of {one.kudos_class} for {one.model} is {one.end}: {one.detail[:300]} {one.text[:80]!r}"
        for one in requests
        if one.end not in ("done", "faulted")
    ]
    problems += [f"the text of job {job} was taken twice" for job in told.twice]
    try:
        await asyncio.to_thread(site.deployment.wait_idle, SETTLE_TIMEOUT_S)
    except AssertionError as error:
        problems.append(str(error))
    found = await audit(site.deployment)
    problems += found.problems
    accepted = sum(one.id is not None for one in requests)
    answered = Counter(one.end for one in requests)
    if found.events < answered["done"]:
        problems.append(f"{answered['done']} requests are done, but there are {found.events} usage events")
    for words in (("kudos", "verify"), ("usage", "verify")):
        try:
            said = await asyncio.to_thread(site.deployment.command, *words)
            print(f"callboard {' '.join(words)}: 0\n  " + said.strip().replace("\n", "\n  "))
        except AssertionError as error:
            problems.append(str(error))
    unsure = sum(one.unknown for one in requests)
    told_sum = round(sum(told.rewards.values()) * 1000)
    print(f"kills: {dict(Counter(kills))}")
    print(f"requests: {accepted} accepted, {unsure} calls without an answer, ends {dict(answered)}")
    print(f"volunteers: {told.pops} pops, {told.jobs} jobs; {dict(sorted(told.answers.items()))}")
    print(f"usage events: {found.events}, outcomes {dict(found.outcomes)}")
    print(f"rewards: told {kudos(told_sum)}, in usage events {kudos(found.rewards)}, paid {kudos(found.paid)}")
    print(
        f"charged {kudos(found.charged)} to {found.paying} requests, fees {kudos(found.fees)}, "
        f"their rewards {kudos(found.rewards_of_charged)}; {found.short} had too few kudos"
    )
    _print_ages(requests, told)
    return problems


def _print_ages(requests: Sequence[Request], told: Told) -> None:
    rows: list[Sequence[str]] = [("age at end", "requests", "median", "p95", "max")]
    for kind in dict.fromkeys([*KUDOS, ANONYMOUS, *MODELS]):
        ages = [
            told.finished_at.get(one.number, one.ended_at) - one.asked_at
            for one in requests
            if kind in (one.kudos_class, one.model) and one.end == "done"
        ]
        if ages:
            figures = (percentile(ages, 0.5), percentile(ages, 0.95), max(ages))
            rows.append((kind, str(len(ages)), *(f"{age:.1f} s" for age in figures)))
    print(*table_of(rows), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
