// pg-boss, called as its documentation does: fetch a batch, complete it.
"use strict";

const PgBoss = require("pg-boss");
const { now, runProgram } = require("./program.cjs");

async function started(connections) {
  const boss = new PgBoss({ max: connections, supervise: false, schedule: false });
  boss.on("error", (error) => console.error(error.message));
  return boss.start();
}

async function install() {
  const boss = await started(1);
  await boss.createQueue("noop");
}

async function work(reporter, options) {
  const workers = Number(options.workers);
  const boss = await started(workers);
  await reporter.ready();
  let stopped = false;
  const fetching = Array.from({ length: workers }, async () => {
    while (!stopped) {
      const jobs = await boss.fetch("noop", { batchSize: Number(options.batch_size) });
      jobs.forEach(() => reporter.jobBegan());
      if (jobs.length) await boss.complete("noop", jobs.map((job) => job.id));
      else await new Promise((done) => setTimeout(done, 500)); // the shortest interval it polls at
    }
  });
  await reporter.waitForStop();
  stopped = true;
  await Promise.all(fetching);
}

async function enqueue(jobs, aCall) {
  const boss = await started(1);
  await boss.send("noop", { number: 1 });
  const began = now();
  if (aCall === 1) {
    for (let i = 0; i < jobs; i++) await boss.send("noop", { number: 1 });
  } else {
    for (let i = 0; i < jobs; i += aCall) {
      await boss.insert(Array.from({ length: aCall }, () => ({ name: "noop", data: { number: 1 } })));
    }
  }
  return now() - began;
}

runProgram({ install, work, enqueue });
