#!/bin/bash
# A supervised run as a Slurm job; copy it and set nodes, time and the last line. It is warned by SIGUSR1 120 s before its time is over: the ranks
# save, the supervisor ends with 75, and Slurm (slurm.conf: RequeueExit=75) puts the job back into the queue, where it goes on; after the loss
# of a node likewise. `exec`, so that the signal, which goes to the batch shell alone, reaches the supervisor.
#SBATCH --job-name=dikast
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=dikast-%j.log
export OMPI_MCA_mpi_yield_when_idle=1
exec dikast launch -n "$SLURM_NTASKS" --via "srun --kill-on-bad-exit=1" -- run "$@"
