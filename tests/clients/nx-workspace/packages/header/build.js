// Writes what a remote cache has to bring back: a text file, an executable, a symbolic link, lines on the terminal,
// when BIG_MB is set, that many MiB which do not compress, and, when ODD is set, what archives hold seldom. `built at` differs on each run, so a test sees a rebuild.
const fs = require('fs');
const path = require('path');

const source = fs.readFileSync(path.join(__dirname, 'src.txt'), 'utf8');
const dist = path.join(__dirname, 'dist');
fs.rmSync(dist, { recursive: true, force: true });
fs.mkdirSync(dist);

const stamp = `${process.env.BUILT_BY || 'nobody'} ${process.hrtime.bigint()}`;
fs.writeFileSync(path.join(dist, 'index.js'), `module.exports = ${JSON.stringify(source)};\n`);
fs.writeFileSync(path.join(dist, 'stamp.txt'), stamp + '\n');
fs.writeFileSync(path.join(dist, 'run.sh'), '#!/bin/sh\necho hi\n', { mode: 0o755 });
fs.symlinkSync('index.js', path.join(dist, 'main.js'));
const megabytes = Number(process.env.BIG_MB || 0);
if (megabytes > 0) {
  fs.writeFileSync(path.join(dist, 'big.bin'), require('crypto').randomBytes(megabytes << 20));
}
if (process.env.ODD) {
  const deep = path.join(dist, 'node_modules', '.bin', 'a directory with a long name '.repeat(5), 'é'.repeat(60));
  fs.mkdirSync(deep, { recursive: true });
  fs.writeFileSync(path.join(deep, 'x'.repeat(150)), 'deep');
  fs.symlinkSync('../../index.js', path.join(dist, 'node_modules', '.bin', 'tool'));
  // Nx from 24 on does not take back an output with a link out of it.
  if (process.env.ODD === 'links') {
    fs.symlinkSync('../../../app', path.join(dist, 'node_modules', 'app'));
  }
  // Nx before 22 follows links, and fails at these.
  if (process.env.ODD !== 'files') {
    fs.symlinkSync('nowhere', path.join(dist, 'dangling'));
    fs.symlinkSync('node_modules', path.join(dist, 'modules'));
  }
  const sparse = fs.openSync(path.join(dist, 'sparse.bin'), 'w');
  fs.writeSync(sparse, 'end', 64 << 20);
  fs.closeSync(sparse);
}

console.log('src.txt -> dist/index.js');
console.log('built at', stamp);
