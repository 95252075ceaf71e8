#!/usr/bin/env bash
# A comparison as a Slurm array: each task trains its share of the runs, and the last job writes the report.
#
#     bash examples/slurm_array.sh
#
# Set TASKS to the number of tasks, CPUS to the processors of each, and change ARGUMENTS. All tasks share the folder of --output.
set -euo pipefail

TASKS=${TASKS:-10}
CPUS=${CPUS:-4}
ARGUMENTS=(
    --env CartPole-v1 Acrobot-v1
    --algos ppo sb3:ppo a2c
    --seeds 10
    --timesteps 100000
    --output runs/on-slurm
)

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # one task of the array, which Slurm starts with a number from 1
    exec sb3-pgx compare "${ARGUMENTS[@]}" --workers "$CPUS" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
elif [ "${1:-}" = report ]; then # the last job
    exec sb3-pgx compare "${ARGUMENTS[@]}" --report-only
fi

mkdir -p logs
array=$(sbatch --parsable --array="1-$TASKS" --cpus-per-task="$CPUS" --time=04:00:00 --requeue --output=logs/%A-%a.log "$0")
sbatch --dependency="afterany:${array%%;*}" --time=00:10:00 --output=logs/report-%j.log "$0" report
