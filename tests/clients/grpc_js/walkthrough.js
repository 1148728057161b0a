// A fleet, six of its eight blocks, the same token again, the block map, and everything given back twice:
//   node walkthrough.js HOST:PORT FLEET
"use strict";

const assert = require("node:assert/strict");
const { call, connect, decodeError } = require("./blockyard.js");

async function main(address, fleetId) {
  const { Allocator, FleetAdmin, Ledger, Health } = connect(address);
  const fleet = `fleets/${fleetId}`;
  const instance = `${fleet}/instances/node-1`;

  assert.equal((await call(Health, "Check", {})).status, "SERVING");
  assert.equal((await call(FleetAdmin, "CreateFleet", { fleet_id: fleetId, fleet: { labels: { made: "here" } } })).name, fleet);
  const made = { parent: fleet, instance_id: "node-1", instance: { total_blocks: 8, labels: { gpu: "a100" } } };
  assert.equal((await call(FleetAdmin, "CreateInstance", made)).idle_blocks, 8);

  const wanted = {
    fleet,
    idempotency_token: "one-intent",
    holder: "train",
    demands: [{ blocks: 6, selector: { match_expressions: [{ key: "gpu", operator: "IN", values: ["a100", "h100"] }] } }],
    ttl: { seconds: 600 },
    annotations: { team: "vision" },
  };
  const grant = await call(Allocator, "Acquire", wanted);
  const { allocation } = grant;
  assert.equal(grant.replayed, undefined);
  assert.deepEqual(allocation.placements, [{ instance, blocks: [0, 1, 2, 3, 4, 5] }]);
  assert.equal(allocation.name, `${fleet}/allocations/${allocation.fencing_token}`);

  const again = await call(Allocator, "Acquire", wanted);
  assert.equal(again.replayed, true);
  assert.deepEqual(again.allocation, allocation);
  assert.equal(again.revision, grant.revision);

  const refusal = await call(Allocator, "Acquire", { ...wanted, idempotency_token: "another" }).then(
    () => assert.fail("six of two idle blocks were granted"),
    decodeError,
  );
  assert.equal(refusal.status, "RESOURCE_EXHAUSTED");
  assert.equal(refusal.details[0].reason, "NO_CAPACITY");
  assert.equal(refusal.details[0].metadata.idle_blocks, "2");

  const renewed = await call(Allocator, "Renew", { name: allocation.name, ttl: { seconds: 3600 } });
  assert.ok(Number(renewed.allocation.expire_time.seconds) > Number(allocation.expire_time.seconds));

  const map = await call(Allocator, "Describe", { fleet, view: "FULL" });
  assert.deepEqual([map.totals.busy_blocks, map.totals.idle_blocks, map.totals.total_blocks], ["6", "2", "8"]);
  assert.deepEqual(map.instances[0].holds, [
    { allocation: allocation.name, holder: "train", blocks: [0, 1, 2, 3, 4, 5] },
  ]);

  const outcomes = [];
  for (const target of [{ name: allocation.name }, { fleet, idempotency_token: "one-intent" }]) {
    outcomes.push((await call(Allocator, "Release", target)).outcome);
  }
  assert.deepEqual(outcomes, ["RELEASED", "ALREADY_RELEASED"]);

  const after = await call(Allocator, "Describe", { fleet });
  assert.deepEqual([after.totals.busy_blocks, after.totals.idle_blocks], [undefined, "8"]);
  const { events } = await call(Ledger, "ListEvents", { parent: fleet });
  const kinds = ["FLEET_CREATED", "INSTANCE_CREATED", "GRANTED", "RENEWED", "RELEASED"];
  assert.deepEqual(events.map((event) => event.kind), kinds);
  assert.equal((await call(Ledger, "Verify", { fleet })).clean, true);
  return { allocation: allocation.name, events: kinds.length };
}

main(...process.argv.slice(2)).then(
  (report) => {
    console.log(JSON.stringify(report));
    process.exit(0); // the connections would keep it alive
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
