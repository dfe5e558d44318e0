#!/usr/bin/env bash
# A search from end to end: a simulated survey written as FITS files, scanned on two ranks, verified and drawn.
# Everything it makes is in demo/; run again, it resumes.  With --no-setup the environment is taken as it is.
set -euo pipefail
# shellcheck source=jobs/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
cd -- "$ROOT"

case ${1:-} in
    "") bash jobs/setup.sh ;;
    --no-setup) ;;
    *) die "unknown option $1; known is --no-setup" ;;
esac
lensscan=$VENV/bin/lensscan
export OMP_NUM_THREADS=1

say "simulating 3,000 stamps with truth"
"$lensscan" simulate demo-survey -n 3000 --seed 1 -o demo/survey --fits

say "scanning them on two ranks"
mpirun_n 2 "$lensscan" scan catalogs/demo.toml
"$lensscan" verify demo/candidates.h5

say "the top of the ranking, beside the truth"
"$VENV/bin/python" - <<'END'
from astropy.table import Table

import lensscan

candidates = lensscan.read_candidates("demo/candidates.h5")
truth = Table.read("demo/survey/truth.fits")
row_of = {int(number): row for row, number in enumerate(truth["id"])}
print(f"{'rank':>4} {'id':>8} {'logit':>7} {'p_lens':>8} {'theta_E (arcsec)':>18}   truth")
for candidate in candidates[:20]:
    row = truth[row_of[int(candidate["id"])]]
    kind = f"lens, theta_E = {row['theta_E']:.2f}" if row["is_lens"] else f"no lens ({row['class']})"
    theta = f"{candidate['theta_E'].value:.2f} +- {candidate['theta_E_err'].value:.2f}"
    print(f"{candidate['rank']:4d} {candidate['id']:8d} {candidate['logit']:7.2f} {candidate['p_lens']:8.2g} {theta:>18}   {kind}")
END

say "the pictures (true lenses framed in green, with the critical curve of the posterior's median)"
"$lensscan" mosaic demo/candidates.h5 --truth demo/survey/truth.fits --ring -o demo/mosaic
