# bash completion for ovfuse; made by scripts/make-docs
_ovfuse() {
  local current=${COMP_WORDS[COMP_CWORD]} name=${COMP_WORDS[1]-} words=""
  if [ "$COMP_CWORD" = 1 ]; then
    words="compile decrypt doctor encrypt import-openssl inspect keygen lock metrics mount premount prune recipients reload status tpm trust unlock unmount verify --help --version"
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    return
  fi
  case $name in
    tpm|trust|recipients)
      if [ "$COMP_CWORD" = 2 ]; then name="$name "
      else name="$name ${COMP_WORDS[2]}"; fi ;;
  esac
  COMPREPLY=()
  case $name in
    "tpm ") words="enrol" ;;
    "trust ") words="add list remove" ;;
    "recipients ") words="add remove list" ;;
    "keygen") words="--output -o --help" ;;
    "encrypt") words="-r --recipient -R --recipients-file -p --passphrase --sign-key --name --new-model --not-before --not-after --machine --help" ;;
    "import-openssl") words="--key-file --iv-file --password-file --cipher --iter --md --map --plain -r --recipient -R --recipients-file -p --passphrase --sign-key --name --new-model --not-before --not-after --machine --help" ;;
    "mount") words="-i --identity --verify-key -o -f --foreground --help" ;;
    "unmount") words="--lazy --help" ;;
    "reload") words=" --help" ;;
    "lock") words="--force --help" ;;
    "unlock") words="-i --identity --help" ;;
    "status") words="--json --watch --interval --help" ;;
    "metrics") words="--listen --mode --group --help" ;;
    "verify") words="-i --identity --verify-key --allow-untrusted --allow-rollback --json --help" ;;
    "inspect") words="--json --help" ;;
    "decrypt") words="-i --identity --verify-key --allow-untrusted --allow-rollback --help" ;;
    "prune") words=" --help" ;;
    "compile") words="--device --config -i --identity --verify-key --allow-untrusted --allow-rollback --help" ;;
    "doctor") words="--json --help" ;;
    "premount") words="-o --help" ;;
    "tpm enrol") words="-i --identity --pcrs --tcti --allow-zero-pcrs --help" ;;
    "trust add") words="--system --help" ;;
    "trust list") words=" --help" ;;
    "trust remove") words=" --help" ;;
    "recipients add") words="-r --recipient -R --recipients-file -p --passphrase -i --identity --verify-key --allow-untrusted --help" ;;
    "recipients remove") words="-r --recipient -R --recipients-file -p --passphrase -i --identity --verify-key --allow-untrusted --help" ;;
    "recipients list") words="-r --recipient -R --recipients-file -i --identity --verify-key --allow-untrusted --json --help" ;;
  esac
  if [[ $current == -* || $name == *" " ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  fi
}
complete -o default -F _ovfuse ovfuse
