#!/usr/bin/env node
// Runs the binary of the package for this machine, with the same arguments, streams and signals.
"use strict";

const { spawn } = require("node:child_process");

const PACKAGES = { "linux x64": "@rejoinder/linux-x64", "linux arm64": "@rejoinder/linux-arm64" };
const machine = `${process.platform} ${process.arch}`;

function binary() {
  const name = PACKAGES[machine];
  if (name === undefined) {
    throw new Error(`there is no binary for ${machine}; build one: cargo install --locked --git https://github.com/rejoinder/rejoinder`);
  }
  try {
    return require.resolve(`${name}/bin/rejoinder`);
  } catch {
    throw new Error(`the package ${name} is missing: install without --omit=optional (--no-optional)`);
  }
}

let path;
try {
  path = binary();
} catch (error) {
  console.error(`rejoinder: ${error.message}`);
  process.exit(1);
}
const child = spawn(path, process.argv.slice(2), { stdio: "inherit" });
// a terminal sends Ctrl-C to both; other programs signal this process alone
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]) {
  process.on(signal, () => child.kill(signal));
}
child.on("error", (error) => {
  console.error(`rejoinder: cannot run ${path}: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => {
  if (signal === null) {
    process.exit(code);
  }
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
