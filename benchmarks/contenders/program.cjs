// program.py for Node: what a contender's program has around its library.
"use strict";

const readline = require("node:readline");

const TICK_MILLISECONDS = 5;

const say = (news) => process.stdout.write(JSON.stringify(news) + "\n");

// CLOCK_MONOTONIC in seconds, as Python's time.monotonic().
const now = () => Number(process.hrtime.bigint()) / 1e9;

class Reporter {
  constructor(each) {
    this.each = each;
    this.handled = 0;
    this.heard = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  }

  jobBegan() {
    if (this.each) {
      say({ began: now() });
    } else if (++this.handled === 1) {
      say({ handled: 1, at: now() });
    }
  }

  async ready() {
    say({ ready: true });
    await this.waitFor("go");
    if (!this.each) {
      let told = 0;
      setInterval(() => {
        if (this.handled !== told) say({ handled: (told = this.handled), at: now() });
      }, TICK_MILLISECONDS);
    }
  }

  waitForStop() {
    return this.waitFor("stop");
  }

  async waitFor(word) {
    const { value } = await this.heard.next();
    if (value !== word) throw new Error(`expected '${word}' on standard input, not '${value}'`);
  }
}

async function runProgram({ install, work, enqueue }) {
  const [command, ...pairs] = process.argv.slice(2);
  const options = Object.fromEntries(pairs.map((pair) => pair.split("=")));
  if (command === "install") {
    await install();
  } else if (command === "work") {
    await work(new Reporter(options.each === "1"), options);
  } else {
    say({ seconds: await enqueue(Number(options.jobs), Number(options.a_call)) });
  }
  process.exit(0);
}

module.exports = { now, runProgram };
