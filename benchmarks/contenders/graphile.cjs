// graphile-worker, called as its documentation does.
"use strict";

const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { Pool } = require("pg");
const { now, runProgram } = require("./program.cjs");

const logger = new Logger(() => (level, message) => level === "error" && console.error(message));
const worker = { logger };

async function install() {
  const utils = await makeWorkerUtils({ pgPool: new Pool(), preset: { worker } });
  await utils.migrate();
  await utils.addJob("noop", { number: 1 }); // so that its task is known
}

async function work(reporter, options) {
  const concurrentJobs = Number(options.workers);
  const batched = options.local_queue
    ? { localQueue: { size: Number(options.local_queue) }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
    : {};
  const pgPool = new Pool({ max: concurrentJobs + 2 });
  await reporter.ready();
  const runner = await run({
    pgPool,
    noHandleSignals: true,
    taskList: { noop: async () => reporter.jobBegan() },
    preset: { worker: { ...worker, concurrentJobs, ...batched } },
  });
  await reporter.waitForStop();
  await runner.stop();
}

async function enqueue(jobs, aCall) {
  const utils = await makeWorkerUtils({ pgPool: new Pool(), preset: { worker } });
  await utils.addJob("noop", { number: 1 });
  const began = now();
  if (aCall === 1) {
    for (let i = 0; i < jobs; i++) await utils.addJob("noop", { number: 1 });
  } else {
    for (let i = 0; i < jobs; i += aCall) {
      await utils.addJobs(Array.from({ length: aCall }, () => ({ identifier: "noop", payload: { number: 1 } })));
    }
  }
  return now() - began;
}

runProgram({ install, work, enqueue });
