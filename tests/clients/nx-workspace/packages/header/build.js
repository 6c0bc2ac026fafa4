// Writes what a remote cache has to bring back: a text file, an executable, a symbolic link, lines on the terminal,
// and, when BIG_MB is set, that many MiB which do not compress. `built at` differs on each run, so a test sees a rebuild.
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

console.log('src.txt -> dist/index.js');
console.log('built at', stamp);
