"""Training: start with `loop`.

loop           the training loop, for every task
task           the interface of tasks, which codec_task, lm_task, mulan_task,
               semantic_task and melody_task implement
config_files   configs on a command line
config_names   which configs ship, for help texts
config_checks  every setting of a config, and the numbers that it may have
settings       records the config in the workdir
program        the jitted functions of a run: initialization and step; compile
               lowers them, and other programs of a config, for a TPU slice
               without having one, and compile_report says whether they fit
opening        what a run and a dry run of it do first: checks, mesh, task
dry_run        checks a run without starting it
state          the training state, and one guarded update of it
same_data      checks that all hosts of a run see the same data sets
saving         saves sound states alone; ends a run that has become unsound
gradients      gradients that take several backward passes
optimizer      optimizers and learning-rate schedules
trainable      which parameters a run trains; low-rank additions
token_data     what the token data sets of a language model's run are, and
               whether they fit it
warm_start     starting from the weights of a trained model
level_statistics  mean and deviation of the bands of spectra, for models that
               standardise them
audio_crops    the batches of tasks that train on random crops of audio
watchdog       ends a run that hangs
preemption     stops all processes at the same step after a signal
goodput        measures where the wall-clock time of a run goes
speed          speed per device, use of its arithmetic and memory
hosts          which process of a run is the slowest
reporting      prints and logs the metrics that a task returns, speed and time
               left
profiling      traces steps for xprof, as planned or on demand

The codec's task also uses reconstruction_losses, adversarial (a step of the
discriminators), independence_term, encoder_gradients, codec_evaluation and
spectral_profile.
"""
